"""Scores in, one self-contained HTML page about them out."""
