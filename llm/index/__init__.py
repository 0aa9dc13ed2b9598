"""The indexes over the documents: where any sequence of the train split's tokens occurs, and search by words."""

# Which spans a trace reports, unless it is told otherwise.
MIN_SPAN_TOKENS = 8
MIN_SPAN_BITS = 64.0
SPAN_DOCUMENTS = 3  # named for each span
