"""The sources that the user named: whether they are pictures or embeddings, and their parts."""
