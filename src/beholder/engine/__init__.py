"""Runs a CLIP tower on a device: back end, precision and batch size chosen, and checked against float32."""
