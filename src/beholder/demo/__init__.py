"""The demo: embeddings are made up, a head is fitted to them, they are scored and shown."""
