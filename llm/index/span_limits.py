"""Which spans a trace reports unless it is told otherwise; apart from llm.index.trace, which takes long to import."""

MIN_SPAN_TOKENS = 8
MIN_SPAN_BITS = 64.0
SPAN_DOCUMENTS = 3  # named for each span
