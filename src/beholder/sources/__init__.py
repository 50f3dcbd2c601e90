"""What the user named, looked at: pictures or embeddings, and the parts of either."""
