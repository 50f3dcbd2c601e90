"""Where steps run. Knows shards and the protocol of a step, no step itself."""
