"""Steps: work on one shard. A step knows no other step and not where it runs."""
