"""Near-duplicates and identical files: which pictures are alike, and which of them stay."""
