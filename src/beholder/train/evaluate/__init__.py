"""How good any heads are on any ratings: found in score sets or made of embeddings, measured on the same pictures."""
