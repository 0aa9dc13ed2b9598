"""Sources to documents: discovery, extraction, filtering, de-duplication, splits, and the built-in sample."""
