"""Whole jobs: a step, where it runs, and its result joined and summed up. The command line and Python start here."""
