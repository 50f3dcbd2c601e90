"""The arithmetic: compiled loops from embedding rows in memory to scores. Knows no file, no head, no option."""
