"""Which texts are worth learning from: filters, scrubbing, boilerplate, near-duplicates, overlap of the splits."""
