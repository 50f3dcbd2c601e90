"""Score sets opened again, beholder's and other people's: rows, joined tables, rejects, conditions, numbers."""
