"""What makes a text unfit to be a document. Each filter returns the reason, or an empty string."""

from __future__ import annotations

from llm.config import IngestParams


def reject_reason(text: str, params: IngestParams) -> str:
    """Why this text is not kept, or an empty string if it is."""
    n_chars = len(text.strip())
    if n_chars < params.min_chars:
        return f"too short: {n_chars} characters, and ingest.min_chars is {params.min_chars}"
    return ""
