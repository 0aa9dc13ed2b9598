"""A source folder to documents: discover, read in worker processes, clean, remove duplicates, split, write."""
