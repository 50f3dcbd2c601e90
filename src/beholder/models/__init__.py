"""Heads and towers: catalogue, download, checkpoints, and the models in memory."""
