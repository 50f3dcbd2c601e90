"""Image towers of timm, open_clip and transformers: their names, their networks, and their own ways from picture to pixels.

These libraries are imported only when one of their towers is asked for.
"""
