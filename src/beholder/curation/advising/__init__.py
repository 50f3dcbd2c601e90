"""Scores and a threshold in; what it keeps, where others cut, and which groups of pictures pay for it, out."""
