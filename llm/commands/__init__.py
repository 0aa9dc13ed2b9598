"""The commands of ``python -m llm``: one module each, with `add` for its options and `run` for its work."""
