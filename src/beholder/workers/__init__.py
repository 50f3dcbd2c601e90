"""Processes that decode pictures and make thumbnails, and survive crashes and hangs."""
