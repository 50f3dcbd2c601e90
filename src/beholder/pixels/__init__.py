"""From the bytes of a picture to the exact pixels that the CLIP tower is given, and to thumbnails."""
