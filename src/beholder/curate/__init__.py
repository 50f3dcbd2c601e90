"""From scores to a curated set: selection, near-duplicates, advice, and what is done with the files."""
