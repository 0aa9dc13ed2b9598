"""What a trained model has learned, as one page for the browser: token embeddings, attention, layers.

`llm.explore.space` gathers the embeddings, `llm.explore.recording` what the model computes for a text, and
`llm.explore.page` writes both into one HTML file.
"""
