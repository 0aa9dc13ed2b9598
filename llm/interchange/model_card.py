"""The model card: a README.md that says what an exported model is, written from the run's own reports.

The YAML header follows the Hugging Face Hub's conventions (https://huggingface.co/docs/hub/model-cards). What a stage
has not reported is left out: a card never holds a figure that was not measured.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llm.config import ModelParams
from llm.data.modalities import WITH_PAGES
from llm.escaping import one_line
from llm.interchange.families import FAMILIES, family_of

PLOTS = {
    "val_bpb.png": "Bits per byte of held-out text during training",
    "train_loss.png": "Training loss",
    "held_out.png": "Held-out quality by modality, beside simple baselines",
}


def write_model_card(
    name: str,
    config: dict[str, Any],
    params: ModelParams,
    n_parameters: int,
    reports: dict[str, dict[str, Any]],
    files: Sequence[str],
    plots: Sequence[str],
    origin: dict[str, str],
    left_out: dict[str, str] | None = None,
) -> str:
    """The card's text.

    Args:
        name: the model's name.
        config: config.json of the model folder: shape, vocabulary size, provenance.
        params: the model's shape.
        n_parameters: number of weights.
        reports: the stages' reports by name (ingest, tokenize, train, evaluate); those that are missing are left out.
        files: names of the GGUF files beside the card.
        plots: paths of the plots beside the card.
        origin: what identifies the run, such as the git commit.
        left_out: reports whose figures are not of this model, with the reason.
    """
    provenance = config["provenance"]
    model_type = family_of(params)
    family = FAMILIES[model_type].name if model_type else "Transformer"
    size = f"{n_parameters / 1e6:,.1f}M"
    name = one_line(name)
    sections = [
        _header(name, model_type, reports.get("evaluate", {})),
        f"# {_plain(name)}\n\nA {family}-style decoder-only language model with {size} parameters, "
        f"{_made_from(provenance)}. It continues text; it was not tuned to follow instructions or to chat.",
        _usage(files),
        _data(reports.get("ingest", {}), reports.get("tokenize", {})),
        _tokenizer(config["vocab_size"], reports.get("tokenize", {})),
        _section("Architecture", _table(("", ""), _architecture(params, n_parameters))),
        _training(provenance, reports.get("train", {})),
        _results(reports.get("evaluate", {}), plots),
        _left_out(left_out or {}),
        _section("Provenance", _table(("", ""), {**_made_with(provenance), **origin}.items())),
        _limits(params, provenance, reports.get("ingest", {})),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _made_from(provenance: dict[str, Any]) -> str:
    train = provenance.get("train") or {}
    base, rank = train.get("init_from"), train.get("lora_rank")
    if base:
        adapters = f" by LoRA adapters of rank {rank}, merged into its weights" if rank else ""
        return f"trained further from {_code(str(base))}{adapters}"
    if "imported_from" in provenance:
        return f"imported from {_code(str(provenance['imported_from']))}"
    return "trained from scratch" if "train" in provenance else "of unknown origin"


def _left_out(reports: dict[str, str]) -> str:
    """Why some figures that were at hand are not in the card."""
    if not reports:
        return ""
    lines = [f"- `{name}`: {reason}" for name, reason in reports.items()]
    return _section("Left out", "Reports that do not describe this model:\n\n" + "\n".join(lines))


def _header(name: str, model_type: str | None, evaluation: dict[str, Any]) -> str:
    from ruamel.yaml import YAML

    header: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": [*([model_type] if model_type else []), "causal-lm", "base-model"],
    }
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"type": "held-out", "name": f"held-out documents ({split})", "split": split},
            "metrics": [
                {"type": kind, "name": label, "value": evaluation[split][key]}
                for key, kind, label in (
                    ("bpb", "bits_per_byte", "bits per byte"),
                    ("perplexity", "perplexity", "perplexity per token"),
                )
                if evaluation[split].get(key) is not None
            ],
        }
        for split in ("val", "test")
        if split in evaluation
    ]
    results = [result for result in results if result["metrics"]]
    if results:
        header["model-index"] = [{"name": name, "results": results}]
    text = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(header, text)
    return f"---\n{text.getvalue()}---"


def _usage(files: Sequence[str]) -> str:
    text = (
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'folder = "."  # where this file is\n'
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        "model = AutoModelForCausalLM.from_pretrained(folder)\n"
        'inputs = tokenizer("Once upon a time", return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0], skip_special_tokens=True))\n"
        "```\n\n"
        "A document begins with the token `<|endoftext|>`, which the tokenizer puts in front of a text by itself. "
        "These characters inside a text are ordinary text (`split_special_tokens`)."
    )
    if files:
        text += "\n\nFor llama.cpp: " + ", ".join(map(_code, files)) + "."
    return _section("Use", text)


def _data(ingest: dict[str, Any], tokenize: dict[str, Any]) -> str:
    if not ingest.get("modality"):
        return ""
    per_token = tokenize.get("bytes_per_token") or {}
    rows = [
        (
            modality,
            _n(c.get("files")),
            _n(c.get("kept")),
            _n(c.get("pages")),
            _n(c.get("bytes")),
            per_token.get(modality),
        )
        for modality, c in ingest["modality"].items()
        if c.get("files")
    ]
    text = _table(("modality", "files", "documents", "pages", "bytes of text", "bytes per token"), rows)
    documents = ingest.get("documents") or {}
    splits = [f"{_n(documents[split])} {split}" for split in ("train", "val", "test") if split in documents]
    if splits:
        text += f"\n\nDocuments: {', '.join(splits)}. Split after near-copies were removed, by a hash of the content."
    tokens = tokenize.get("tokens") or {}
    if tokens:
        text += f" Tokens: {', '.join(f'{_n(tokens[split])} {split}' for split in ('train', 'val', 'test'))}."
    return _section("Data", text)


def _tokenizer(vocab_size: int, tokenize: dict[str, Any]) -> str:
    overall = (tokenize.get("bytes_per_token") or {}).get("overall")
    text = f"Byte-level BPE with {_n(vocab_size)} tokens: every text has an encoding."
    return _section("Tokenizer", text + (f" A token stands for {overall} bytes on average." if overall else ""))


def _architecture(params: ModelParams, n_parameters: int) -> Iterable[tuple[str, Any]]:
    yield "parameters", _n(n_parameters)
    yield "layers", params.n_layers
    yield "width", params.d_model
    yield "feed-forward width (SwiGLU)", params.d_ff
    yield "query heads / key-value heads", f"{params.n_heads} / {params.n_kv_heads}"
    yield "width of a head", params.head_dim
    yield "QK-norm", ("over all heads" if params.joint_qk_norm else "yes") if params.qk_norm else "no"
    if params.qkv_bias:
        yield "biases", "queries, keys and values"
    if params.norm_after:
        yield "norms", "after attention and feed-forward"
    if params.nope_interval:
        yield "layers without rotary positions", f"the last of every {params.nope_interval}"
    yield "context", f"{_n(params.context_length)} tokens"
    yield "rotary base", params.rope_theta
    if scaling := params.rope_scaling:
        yield "rotary scaling", f"{scaling.type}, factor {scaling.factor:g}"
    yield "tied embeddings", "yes" if params.tied_embeddings else "no"


def _training(provenance: dict[str, Any], train: dict[str, Any]) -> str:
    rows = [
        ("optimizer steps of the exported weights", _n(provenance.get("step"))),
        ("tokens seen", _n(provenance.get("tokens_seen"))),
        ("seconds of training", (train.get("total") or {}).get("seconds")),
        ("precision", provenance.get("precision")),
        *((_Markdown(_code(key)), value) for key, value in (provenance.get("train") or {}).items()),
    ]
    return _section("Training", _table(("", ""), [row for row in rows if row[1] is not None]))


def _results(evaluation: dict[str, Any], plots: Sequence[str]) -> str:
    rows: list[tuple[Any, ...]] = []
    for split in ("val", "test"):
        whole = evaluation.get(split) or {}
        for label, score in (("all", whole), *(whole.get("modality") or {}).items()):
            if score.get("bpb") is not None:
                rows.append((split, label, score["bpb"], score.get("perplexity"), _n(score.get("n_bytes"))))
    parts = []
    if rows:
        parts.append(
            "Bits per byte (bpb) of whole held-out documents, which do not depend on the tokenizer; lower is better."
        )
        parts.append(_table(("split", "modality", "bpb", "perplexity per token", "bytes"), rows))
        baselines = (evaluation.get("baselines") or {}).get("test") or {}
        if baselines:
            parts.append(
                "For comparison, on the test split: "
                + ", ".join(
                    f"{_plain(key.removesuffix('_bpb').replace('_', ' '))} {value}" for key, value in baselines.items()
                )
                + "."
            )
    parts += _memorization(evaluation.get("memorization") or {})
    with_index = (evaluation.get("test") or {}).get("bpb_with_index")
    if with_index is not None:
        parts.append(
            f"Mixed with an index of its training documents, which is not part of this folder, it takes {with_index} "
            "bits per byte on the test split."
        )
    parts += [f"![{PLOTS[Path(plot).name]}]({plot})" for plot in plots]
    return _section("Results", "\n\n".join(parts)) if parts else ""


def _memorization(memorization: dict[str, Any]) -> Iterable[str]:
    """What the model repeats of its training documents, beside held-out text, and what it gives away of canaries."""
    texts = {"written by the model": memorization.get("generated"), "held-out text": memorization.get("held_out")}
    lengths = [key for key in memorization.get("generated") or {} if key.startswith("span_")]
    rows = [
        (label, _n(shares.get("n_tokens")), *(_percent(shares.get(key)) for key in lengths))
        for label, shares in texts.items()
        if shares and shares.get("n_tokens")
    ]
    if rows:
        yield "Tokens in spans that stand word for word in the training documents, by the least length of the spans:"
        yield _table(("", "tokens", *(key.removeprefix("span_") for key in lengths)), rows)
    if canaries := memorization.get("canaries"):
        yield (
            "Random sentences (canaries) were planted among the training documents. Exposure is 1.4 bits on average "
            "for one that the model has not seen, and 10 bits at most; one is completed if its first half makes the "
            "model write the second."
        )
        keys = ("n_canaries", "mean_exposure", "completed")
        yield _table(
            ("times in the training documents, at most", "canaries", "mean exposure, bits", "completed"),
            [
                (name.removeprefix("up_to_"), group.get(keys[0]), group.get(keys[1]), _percent(group.get(keys[2])))
                for name, group in canaries.items()
            ],
        )


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


def _made_with(provenance: dict[str, Any]) -> dict[str, Any]:
    keys = ("torch", "python", "code_sha256", "tokenizer_sha256", "init_sha256")
    versions = {
        f"versions of {stage}": ", ".join(f"{name} {version}" for name, version in packages.items())
        for stage, packages in (provenance.get("versions") or {}).items()
        if packages
    }
    return {key.replace("_", " "): provenance[key] for key in keys if provenance.get(key)} | versions


def _limits(params: ModelParams, provenance: dict[str, Any], ingest: dict[str, Any]) -> str:
    modality = ingest.get("modality") or {}
    lines = [
        "- What it says can be wrong, offensive or made up; nothing was done against that.",
        "- It can repeat passages of its training documents word for word. Publish it only if they may be published.",
        f"- It sees at most {_n(params.context_length)} tokens, and was never trained on more at once.",
        "- It knows the languages and subjects of its training documents only.",
    ]
    if sum((modality.get(kind) or {}).get("kept", 0) for kind in WITH_PAGES):
        lines.append("- Part of the text was extracted from PDFs or recognized in images, and holds their misreadings.")
    if (provenance.get("tokens_seen") or 10**12) < 10**9:
        lines.append(
            f"- It was trained on {_n(provenance['tokens_seen'])} tokens, which is little for a language model."
        )
    return _section("Limits", "\n".join(lines))


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}"


class _Markdown(str):
    """A text that is Markdown already."""


def _plain(value: Any) -> str:
    """A value as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_\[\]<>&|~$])", r"\\\1", one_line(str(value)))


def _code(text: str) -> str:
    """A text as a code span: between more backticks than it has in a row."""
    text = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}" if "`" in text else f"{fence}{text}{fence}"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        if value is None:
            return ""
        return value.replace("|", r"\|") if isinstance(value, _Markdown) else _plain(value)

    def line(cells: Iterable[Any]) -> str:
        return "| " + " | ".join(map(cell, cells)) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *(line(row) for row in rows)])


def _n(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"
