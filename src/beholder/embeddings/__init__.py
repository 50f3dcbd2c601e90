"""Embeddings in: find out what was given, check it, and read it in blocks of rows."""
