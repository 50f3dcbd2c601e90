"""Heads: names, paths and URLs in, verified weights that score embeddings out."""
