"""What a server is told when it starts: where to listen, what to serve, and how much."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from llm.errors import UserError


@dataclass(frozen=True)
class Settings:
    """Options of a server.

    Args:
        model_name: what clients call the model.
        api_key: what clients must send as a bearer token; None on loopback only.
        max_open: most sequences that run or wait.
        max_tokens: most tokens of a continuation; requests for more end there.
        max_body_bytes: of a request.
        timeout_s: for a whole request, from its first byte to the last of the answer.
        documents, passages, index, tokens, tokenizer: what the pipeline wrote, for /search and /trace.
    """

    model_name: str
    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    max_open: int = 256
    max_tokens: int = 4096
    max_body_bytes: int = 2**20
    timeout_s: float = 600.0
    documents: Path = Path("data/documents")
    passages: Path = Path("data/passages")
    index: Path = Path("data/index")
    tokens: Path = Path("data/tokens")
    tokenizer: Path = Path("models/tokenizer")

    def __post_init__(self) -> None:
        for name in ("max_open", "max_tokens", "max_body_bytes"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be 1 or more, but is {getattr(self, name)}")
        if not 0 < self.timeout_s < float("inf"):
            raise UserError(f"--timeout must be above 0, but is {self.timeout_s}")
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port must be between 0 (any free one) and 65535, but is {self.port}")
        if self.api_key is None and not is_loopback(self.host):
            raise UserError(
                f"--host {self.host} can be reached from other machines: give the server a key (--api-key-file), or "
                "leave it on 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Whether a name or address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_api_key(path: Path) -> str:
    """The key in a file's only line.

    Raises:
        UserError: there is no such file, or no key in it that an HTTP header can carry.
    """
    try:
        key = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the API key cannot be read ({error}); write one line of text there") from None
    if not key or not (key.isascii() and key.isprintable()) or " " in key:
        raise UserError(f"{path}: an API key is one line of ASCII characters without blanks; write one there")
    return key
