"""Scoring and embedding as jobs: plan, shards, runner, the steps, what they write, and the summary."""
