"""Embeddings and people's ratings in, a head and honest measures of how well it agrees with them out."""
