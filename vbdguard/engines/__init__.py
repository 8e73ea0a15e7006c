"""Where the passes over shards run."""
