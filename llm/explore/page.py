"""The page that `python -m llm explore` writes: one HTML file that needs no network and no other file.

Worth knowing:

- All data are one JSON object in the page; templates/explore.js draws them. The script only ever sets text, never
  markup, and the content security policy allows no script but this one (by its hash) and no request of any kind.
- Vectors are 16-bit floats and attention weights bytes, both in Base64: a third of the size of JSON numbers. Cosines
  computed from 16 bits differ from exact ones in the fourth decimal.
- Equal inputs give an equal page, byte for byte.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from tokenizers import Tokenizer

from llm.explore.recording import Recording
from llm.explore.space import Space
from llm.files import write_text
from llm.model import Transformer
from llm.report.embeddings import token_kind, token_texts, visible
from llm.report.figures.style import MODALITY_COLORS

# What the page opens with, as far as the vocabulary has it: a - b + c, and the word that a person would expect.
ANALOGIES = (
    (" king", " man", " woman", " queen"),
    (" returns", " return", " raise", " raises"),
    (" False", " false", " true", " True"),
    (" If", " if", " for", " For"),
    (" objects", " object", " class", " classes"),
    (" values", " value", " key", " keys"),
    (" was", " is", " are", " were"),
    (" has", " is", " are", " have"),
    (" first", " one", " two", " second"),
    (" start", " end", " begin", " stop"),
)
# The words of the tables, likewise.
WORDS = (" is", " are", " was", " True", " False", " None", " list", " tuple", " file", " the")


def write_page(
    path: Path,
    model: Transformer,
    tokenizer: Tokenizer,
    space: Space,
    recordings: Sequence[Recording],
    step: int | None,
) -> None:
    """Write the page."""
    texts = token_texts(tokenizer)
    data = {
        "model": {
            "layers": model.params.n_layers,
            "heads": model.params.n_heads,
            "width": model.params.d_model,
            "vocabulary": model.vocab_size,
            "parameters": model.n_parameters(),
            "step": step,
        },
        "space": _space(space),
        "analogies": _analogies(space, tokenizer, texts),
        "words": [rank for word in WORDS if (rank := _rank(word, space)) is not None]
        or list(range(min(8, len(space.ids)))),
        "recordings": [_recording(one, texts) for one in recordings],
    }
    write_text(path, render(data))


def render(data: dict[str, Any]) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("llm.explore"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert environment.loader is not None
    script, style = (environment.loader.get_source(environment, f"explore.{kind}")[0] for kind in ("js", "css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("explore.html.j2").render(
        data=Markup(script_json(data)),
        script=Markup(script),
        style=Markup(style),
        script_sha256=digest,
    )


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: no character in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _space(space: Space) -> dict[str, Any]:
    return {
        "ids": space.ids.tolist(),
        "tokens": [visible(text) for text in space.texts],
        "kinds": [token_kind(text) for text in space.texts],
        "counts": space.counts.tolist(),
        "vectors": _base64(space.vectors.astype("<f2")),
        "modalities": space.modalities,
        "colors": [MODALITY_COLORS.get(name, "#777777") for name in space.modalities],
        "uses": space.uses.tolist(),
        "home": space.home.tolist(),
        "maps": [{"name": one.name, "about": one.about, "points": one.points.round(4).tolist()} for one in space.maps],
        "checkpoints": [{"step": step, "points": points.round(4).tolist()} for step, points in space.checkpoints],
    }


def _analogies(space: Space, tokenizer: Tokenizer, texts: list[str]) -> list[dict[str, Any]]:
    """The analogies with the ranks of their tokens, or the pieces of the words that are several tokens."""
    found = []
    for words in ANALOGIES:
        ranks = [_rank(word, space) for word in words]
        # Pieces of words that the vocabulary does not hold whole: the page says why the analogy cannot be computed.
        pieces = {
            word.strip(): [visible(texts[i]) for i in tokenizer.encode(word, add_special_tokens=False).ids]
            for word, rank in zip(words, ranks, strict=True)
            if rank is None
        }
        found.append({"words": [word.strip() for word in words], "ranks": ranks, "pieces": pieces})
    return found


def _rank(text: str, space: Space) -> int | None:
    """The place of a token among those shown."""
    return space.texts.index(text) if text in space.texts else None


def _recording(recording: Recording, texts: list[str]) -> dict[str, Any]:
    n_layers, n_heads, n_tokens, _ = recording.attention.shape
    tokens = [visible(texts[i]) for i in recording.tokens]
    stream = recording.stream_ids.tolist()
    probabilities = recording.stream_probabilities.double().numpy().round(4).tolist()
    return {
        "name": "".join(texts[i] for i in recording.tokens[1:]).encode("utf-8", "replace").decode()[:60],
        "tokens": tokens,
        "shape": [n_layers, n_heads, n_tokens],
        "attention": _base64((recording.attention.numpy() * 255).round().astype("u1")),
        "lens": [
            [
                [[visible(texts[i]) if i < len(texts) else "?", p] for i, p in zip(ids, shares, strict=True)]
                for ids, shares in zip(row_ids, row_shares, strict=True)
            ]
            for row_ids, row_shares in zip(stream, probabilities, strict=True)
        ],
        "actual": recording.actual.double().numpy().round(5).tolist(),
    }


def _base64(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
