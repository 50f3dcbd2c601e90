"""Scores in, a curated set out: selection, near-duplicates, advice, and what is done with the pictures that stay."""
