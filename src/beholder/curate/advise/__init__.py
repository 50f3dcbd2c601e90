"""Advice on a threshold: what it keeps, where others cut, and which groups of pictures it drops most."""
