"""The whole way, on embeddings made for it: make, fit, score, look."""
