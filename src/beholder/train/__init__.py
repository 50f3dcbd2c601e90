"""Heads of your own: people's ratings read, heads fitted to them, and how good they are."""
