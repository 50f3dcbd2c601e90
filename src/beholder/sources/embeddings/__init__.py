"""Readers of everything that holds embeddings: NumPy, Parquet, CSV, JSON lines and torch files."""
