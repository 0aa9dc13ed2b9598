"""The run report: figures, the map of the embedding space, and the page that shows them."""
