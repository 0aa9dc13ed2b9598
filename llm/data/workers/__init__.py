"""Run a function over many items in worker processes, on this machine or on a Ray cluster."""
