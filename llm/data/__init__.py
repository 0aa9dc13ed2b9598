"""From source files to token shards: discovery, reading, cleaning, deduplication, splits, and the built-in sample."""
