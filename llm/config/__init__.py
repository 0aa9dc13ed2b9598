"""The pipeline's parameters: one frozen dataclass per section of params.yaml, and `load_params` that checks them.

What is worth knowing:

- params.yaml is the only place where values are written. The dataclasses have no defaults, so a key that is missing is
  an error, every key can be set with ``dvc exp run -S``, and nothing is defined twice.
- The dataclasses need the standard library only: the model, the trainer and the inference engine also run where
  pydantic and ruamel.yaml are not installed. Both are imported inside `load_params`.
- ``auto`` is replaced by a number once, when the file is read (llm.config.auto): everything downstream sees plain
  numbers.
- Types are checked by pydantic in strict mode, unknown keys are errors; ranges are checked in ``__post_init__`` and so
  hold for objects built in code as well.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from llm.config.auto import resolve_autos
from llm.errors import UserError

MAX_SEED = 2**63 - 1  # torch's generators take no larger ones
Precision = Literal["auto", "bf16", "fp16", "fp32"]
BenchmarkMode = Literal["no_cache", "cache", "compiled", "int8", "int4", "int8_cache", "speculative"]
GgufType = Literal["f32", "bf16", "q8_0"]
Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class ParamsError(UserError, ValueError):
    """A parameter that cannot be used; the message names the file, the key, and what it must be."""


def _require(ok: bool, key: str, value: object, must: str) -> None:
    if not ok:
        raise ValueError(f"{key} must be {must}, but is {value!r}")


def check_device(name: str) -> None:
    """Raise a ValueError unless this names a device that the project can use, whether or not this machine has it."""
    _require(re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name) is not None, "device", name, "auto, cpu, cuda or cuda:N")


class _Section:
    """Range checks that the sections share; each raises a ValueError that names the key."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    def _at_least(self, minimum: float, *keys: str) -> None:
        for key in keys:
            value = getattr(self, key)
            _require(math.isfinite(value) and value >= minimum, key, value, f"{minimum} or more")

    def _positive(self, *keys: str) -> None:
        for key in keys:
            value = getattr(self, key)
            _require(math.isfinite(value) and value > 0, key, value, "greater than 0")

    def _between(self, low: float, high: float, *keys: str) -> None:
        for key in keys:
            value = getattr(self, key)
            _require(low <= value <= high, key, value, f"between {low} and {high}")


@dataclass(frozen=True)
class SampleParams(_Section):
    """The built-in corpus."""

    seed: int
    n_pdf_pages: int
    n_images: int
    n_code_files: int | None

    def __post_init__(self) -> None:
        self._at_least(0, "seed", "n_pdf_pages", "n_images")
        if self.n_code_files is not None:
            self._at_least(0, "n_code_files")


@dataclass(frozen=True)
class IngestParams(_Section):
    """From files to documents."""

    source: str
    engine: Literal["local", "ray"]
    ray_address: str
    workers: int | Literal["auto"]
    timeout_s: float
    worker_memory_mib: float
    max_file_mib: float
    max_document_chars: int
    text_column: str
    max_members: int
    max_unpacked_mib: float
    max_unpacked_ratio: float
    max_archive_depth: int
    min_chars: int
    ocr_engine: Literal["rapidocr", "tesseract", "none"]
    ocr_dpi: int
    ocr_min_confidence: float
    near_duplicate_threshold: float
    val_fraction: float
    test_fraction: float
    split_seed: int
    cache_keep_runs: int
    cache_max_gib: float

    def __post_init__(self) -> None:
        _require(self.source.strip() != "", "source", self.source, "a folder or a URL")
        if self.workers != "auto":
            self._at_least(1, "workers")
        self._positive("timeout_s", "max_file_mib", "max_unpacked_mib")
        self._at_least(512, "worker_memory_mib")  # less does not even hold the libraries
        self._at_least(1, "min_chars", "max_members", "max_unpacked_ratio", "cache_keep_runs")
        self._at_least(1000, "max_document_chars")
        self._at_least(0, "max_archive_depth", "cache_max_gib")
        _require(self.text_column.strip() != "", "text_column", self.text_column, "the name of a column")
        self._between(50, 600, "ocr_dpi")
        self._between(0.0, 1.0, "ocr_min_confidence", "near_duplicate_threshold")
        self._positive("near_duplicate_threshold", "val_fraction", "test_fraction")
        self._between(0.0, 0.5, "val_fraction", "test_fraction")
        self._at_least(0, "split_seed")


@dataclass(frozen=True)
class FilterParams(_Section):
    """Which documents are good enough; None turns a rule off."""

    min_ocr_confidence: float | None
    drop_generated_code: bool
    minified_line_chars: int | None
    minified_max_blanks: float
    max_symbol_ratio: float | None
    max_digit_ratio: float | None
    min_mean_word_length: float | None
    max_mean_word_length: float | None
    max_duplicate_lines: float | None
    max_duplicate_line_chars: float | None
    max_duplicate_paragraphs: float | None
    max_duplicate_paragraph_chars: float | None
    max_top_2gram: float | None
    max_top_3gram: float | None
    max_top_4gram: float | None
    max_duplicate_5gram: float | None
    max_duplicate_6gram: float | None
    max_duplicate_7gram: float | None
    max_duplicate_8gram: float | None
    max_duplicate_9gram: float | None
    max_duplicate_10gram: float | None
    boilerplate_documents: int | None
    languages: list[str]

    def __post_init__(self) -> None:
        on = [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None]
        shares = [key for key in on if key.startswith(("max_duplicate", "max_top"))]
        self._between(0.0, 1.0, "minified_max_blanks", *shares)
        self._between(0.0, 1.0, *(key for key in ("min_ocr_confidence", "max_digit_ratio") if key in on))
        self._at_least(0, *(key for key in ("max_symbol_ratio", "min_mean_word_length") if key in on))
        self._positive(*(key for key in ("max_mean_word_length", "minified_line_chars") if key in on))
        self._at_least(2, *(key for key in ["boilerplate_documents"] if key in on))
        _require(
            all(len(code) == 2 and code.isalpha() and code.islower() for code in self.languages),
            "languages",
            self.languages,
            "a list of two-letter codes such as en",
        )


@dataclass(frozen=True)
class ScrubParams(_Section):
    """What is replaced by a placeholder."""

    emails: bool
    ip_addresses: bool
    phone_numbers: bool
    phone_region: str | None
    secrets: bool

    def __post_init__(self) -> None:
        region = self.phone_region
        _require(
            region is None or (len(region) == 2 and region.isalpha() and region.isupper()),
            "phone_region",
            region,
            "a two-letter country code such as DE, or empty",
        )


@dataclass(frozen=True)
class TokenizeParams(_Section):
    """The byte-level BPE tokenizer and its token shards."""

    vocab_size: int
    min_frequency: int
    shard_tokens: int

    def __post_init__(self) -> None:
        self._between(257, 2**24, "vocab_size")  # 256 bytes and the end-of-text token at least
        self._at_least(1, "min_frequency")
        self._at_least(1024, "shard_tokens")


@dataclass(frozen=True)
class ModelParams(_Section):
    """The transformer's shape; the vocabulary size comes from the tokenizer.

    `depth`, the dial that sets what is ``auto``, is no part of it.
    """

    # Fields added since format 1 of model folders, with the value at which the model computes what it did without them:
    # folders written before lack these keys.
    OFF_VALUES: ClassVar[dict[str, Any]] = {}

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int | None
    d_ff: int
    context_length: int
    rope_theta: float
    norm_eps: float
    qk_norm: bool
    tied_embeddings: bool

    def __post_init__(self) -> None:
        self._at_least(1, "n_layers", "d_model", "n_heads", "n_kv_heads", "d_ff")
        self._at_least(2, "context_length")
        self._positive("rope_theta", "norm_eps")
        if self.d_head is None:
            _require(
                self.d_model % self.n_heads == 0,
                "n_heads",
                self.n_heads,
                f"a divisor of model.d_model ({self.d_model})",
            )
            _require(self.head_dim % 2 == 0, "d_model", self.d_model, "an even multiple of n_heads (rotary positions)")
        else:
            _require(self.d_head >= 2 and self.d_head % 2 == 0, "d_head", self.d_head, "even (rotary positions)")
        _require(
            self.n_heads % self.n_kv_heads == 0,
            "n_kv_heads",
            self.n_kv_heads,
            f"a divisor of model.n_heads ({self.n_heads})",
        )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_head or self.d_model // self.n_heads


@dataclass(frozen=True)
class TrainParams(_Section):
    """The training run."""

    init_from: str | None
    resume_from: str | None
    lora_rank: int
    lora_alpha: float
    lora_modules: list[Projection]
    seed: int
    max_steps: int
    tokens_per_parameter: float
    batch_size: int
    grad_accum_steps: int
    packing: Literal["stream", "documents"]
    document_attention: bool
    optimizer: Literal["muon", "adamw"]
    lr: float
    head_lr: float
    muon_lr: float
    muon_momentum: float
    muon_momentum_warmup: int
    muon_beta2: float
    muon_iterations: Literal[3, 4, 5]
    schedule: Literal["cosine", "wsd"]
    decay_fraction: float
    min_lr_ratio: float
    warmup_steps: int
    weight_decay: float
    beta1: float
    beta2: float
    adam_eps: float
    grad_clip: float
    precision: Precision
    residual: Literal["auto", "fp32", "bf16"]
    device: str
    compile: bool | Literal["auto"]
    loss: Literal["full", "chunked", "liger"]
    activation_checkpointing: bool
    parallel: Literal["none", "ddp", "fsdp"]
    launcher: Literal["none", "torchrun"]
    n_processes: int | Literal["auto"]
    eval_interval: int
    eval_tokens: int
    checkpoint_interval: int
    keep_checkpoints: int
    max_bad_steps: int
    final_weights: Literal["best", "last"]
    tensorboard: bool

    def __post_init__(self) -> None:
        self._at_least(0, "lora_rank", "warmup_steps", "muon_momentum_warmup")
        self._at_least(0, "weight_decay", "grad_clip")
        self._between(0, MAX_SEED, "seed")
        self._at_least(1, "max_steps", "batch_size", "grad_accum_steps", "eval_interval", "eval_tokens")
        self._at_least(1, "checkpoint_interval", "keep_checkpoints", "max_bad_steps")
        self._positive("lora_alpha", "tokens_per_parameter", "lr", "head_lr", "muon_lr", "decay_fraction", "adam_eps")
        self._between(0.0, 1.0, "min_lr_ratio", "decay_fraction")
        self._between(0.0, 0.99999, "beta1", "beta2", "muon_momentum", "muon_beta2")
        _require(
            self.warmup_steps <= self.max_steps,
            "warmup_steps",
            self.warmup_steps,
            f"at most train.max_steps ({self.max_steps})",
        )
        if self.lora_rank:
            _require(
                bool(self.init_from), "lora_rank", self.lora_rank, "0 where train.init_from names no model to adapt"
            )
            _require(len(self.lora_modules) > 0, "lora_modules", self.lora_modules, "a list of one projection or more")
            # Muon is for maps between hidden states. An adapter's two factors are none; only their product is.
            _require(self.optimizer == "adamw", "optimizer", self.optimizer, "adamw where train.lora_rank is not 0")
        if self.n_processes != "auto":
            self._at_least(1, "n_processes")
            _require(
                self.n_processes == 1 or self.parallel != "none",
                "n_processes",
                self.n_processes,
                "1 unless train.parallel is ddp or fsdp",
            )
        _require(
            self.parallel != "fsdp" or self.precision != "fp16", "precision", self.precision, "bf16 or fp32 with fsdp"
        )
        check_device(self.device)


@dataclass(frozen=True)
class EvaluateParams(_Section):
    """Held-out quality and sample continuations."""

    seed: int
    stride: int
    batch_size: int
    prompts_per_modality: int
    prompt_tokens: int
    new_tokens: int
    temperature: float
    top_k: int
    top_p: float

    def __post_init__(self) -> None:
        self._at_least(0, "temperature", "top_k", "prompts_per_modality")
        self._between(0, MAX_SEED, "seed")
        self._at_least(1, "stride", "batch_size", "prompt_tokens", "new_tokens")
        self._between(0.0, 1.0, "top_p")
        self._positive("top_p")


@dataclass(frozen=True)
class BenchmarkParams(_Section):
    """The generation benchmark."""

    modes: list[BenchmarkMode]
    prompt_lengths: list[int]
    batch_sizes: list[int]
    new_tokens: int
    repeats: int
    quality_tokens: int
    precision: Precision

    def __post_init__(self) -> None:
        _require(
            len(self.modes) == len(set(self.modes)) > 0, "modes", self.modes, "a list of one or more modes, each once"
        )
        self._at_least(0, "quality_tokens")
        for key in ("prompt_lengths", "batch_sizes"):
            values = getattr(self, key)
            _require(len(values) > 0 and min(values) >= 1, key, values, "a list of numbers of 1 or more")
        self._at_least(2, "new_tokens")
        self._at_least(1, "repeats")


@dataclass(frozen=True)
class ExportParams(_Section):
    """The model in the formats that other programs read."""

    shard_mib: float
    gguf: list[GgufType]

    def __post_init__(self) -> None:
        self._positive("shard_mib")


@dataclass(frozen=True)
class PlotParams(_Section):
    """Figures."""

    dpi: int
    n_embedding_tokens: int
    n_neighbours: int
    neighbour_words: list[str]

    def __post_init__(self) -> None:
        self._between(40, 600, "dpi")
        self._at_least(10, "n_embedding_tokens")
        self._at_least(1, "n_neighbours")


@dataclass(frozen=True)
class Params:
    """All of params.yaml."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    sample: SampleParams
    ingest: IngestParams
    filters: FilterParams
    scrub: ScrubParams
    tokenize: TokenizeParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams
    benchmark: BenchmarkParams
    export: ExportParams
    plot: PlotParams

    def __post_init__(self) -> None:
        context = self.model.context_length
        longest = max(self.benchmark.prompt_lengths) + self.benchmark.new_tokens
        _require(
            longest <= context,
            "benchmark.prompt_lengths",
            self.benchmark.prompt_lengths,
            f"short enough that the longest and benchmark.new_tokens ({self.benchmark.new_tokens}) "
            f"fit into model.context_length ({context})",
        )
        wanted = self.evaluate.prompt_tokens + self.evaluate.new_tokens
        _require(
            wanted <= context,
            "evaluate.prompt_tokens",
            self.evaluate.prompt_tokens,
            f"at most model.context_length - evaluate.new_tokens ({context - self.evaluate.new_tokens})",
        )
        _require(
            self.evaluate.stride <= context,
            "evaluate.stride",
            self.evaluate.stride,
            f"at most model.context_length ({context})",
        )


def load_params(path: str | Path = "params.yaml", depth: int | None = None, settings: Sequence[str] = ()) -> Params:
    """Read and check params.yaml, with a number for every ``auto``.

    Args:
        path: the file.
        depth: takes the place of the file's `model.depth`.
        settings: other values for some keys, each as "section.key=value" with the value in YAML.

    Raises:
        ParamsError: the file is missing or not YAML, or a key is unknown, missing, of the wrong type or out of range.
            The message has one line per problem, each naming the key.
    """
    from pydantic import TypeAdapter, ValidationError
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    path = Path(path)
    try:
        # ruamel is what DVC itself uses: it reads `1e-4` as a number (YAML 1.2), PyYAML as a string.
        raw = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ParamsError(f"{path}: not found; run from the project folder, where params.yaml is") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path}: cannot be read ({error})") from None
    except YAMLError as error:
        raise ParamsError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from None
    for setting in settings:
        _set(raw, setting)
    _check_sections(path, raw)
    try:
        raw = _without_autos(raw, depth)
    except ValueError as error:
        raise ParamsError(f"{path}: {error}") from None
    try:
        # Through JSON, since strict mode takes dictionaries for dataclasses from JSON only.
        return TypeAdapter(Params).validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        lines: dict[str, str] = {}
        for one in error.errors():
            key, problem = _explain(dict(one))
            # A union such as `bool | "auto"` reports each of its branches: one line for the key all the same.
            lines[key] = f"{lines[key]}; or it {problem}" if key in lines else problem
        raise ParamsError("\n".join(f"{path}: {key} {problem}" for key, problem in lines.items())) from None


def _check_sections(path: Path, raw: Any) -> None:
    """Without a section the dial cannot be read, and all that depends on it would seem wrong."""
    if isinstance(raw, dict):
        sections = [field.name for field in dataclasses.fields(Params)]
        unknown = [f"{key} is not a known parameter{_suggestion([str(key)])}" for key in raw if key not in sections]
        missing = [f"{name} is missing" for name in sections if name not in raw]
        if problems := unknown or missing:
            raise ParamsError("\n".join(f"{path}: {problem}" for problem in problems))


def _without_autos(raw: Any, depth: int | None) -> Any:
    """The file's content with the dial's values; what is not as expected is left for the checks that follow."""
    if not isinstance(raw, dict) or not all(isinstance(raw.get(name), dict) for name in ("model", "train")):
        return raw
    model = raw["model"] if depth is None else {**raw["model"], "depth": depth}
    if "depth" not in model:
        raise ValueError("model.depth is missing")
    model, train = resolve_autos(model, raw["train"])
    return {**raw, "model": model, "train": train}


def _set(raw: Any, setting: str) -> None:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    name, equals, value = setting.partition("=")
    section, _, key = name.partition(".")
    if not equals or not isinstance(raw, dict) or key not in (raw.get(section) or {}):
        known = "" if equals else ", and its value after a ="
        raise ParamsError(
            f"{setting}: must begin with a section and key of the parameters, as in ingest.workers{known}"
        )
    try:
        raw[section][key] = YAML(typ="safe").load(value)
    except YAMLError:
        raise ParamsError(f"{setting}: the value is not valid YAML") from None


def _explain(error: dict[str, Any]) -> tuple[str, str]:
    """One pydantic error as the key's dotted name and what is wrong with it."""
    keys = [str(part) for part in error["loc"]]
    # A union adds the branch it tried as a last part ("train.compile.bool"): not a key that the user wrote.
    while len(keys) > 2 and not keys[-1].isdigit():
        keys.pop()
    name = ".".join(keys)
    if error["type"] == "value_error":  # raised by __post_init__ above, and starts with its key inside the section
        key, _, problem = str(error["ctx"]["error"]).partition(" ")
        return f"{name}.{key}".lstrip("."), problem
    if error["type"] in {"missing", "missing_argument"}:
        return name, "is missing"
    if error["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return name, f"is not a known parameter{_suggestion(keys)}"
    problem = error["msg"].replace("Input should be", "should be")
    return name or "(the whole file)", f"{problem}, but is {error['input']!r}"


def _suggestion(keys: list[str]) -> str:
    import difflib

    sections = {field.name: field for field in dataclasses.fields(Params)}
    known = list(sections)
    if len(keys) > 1 and keys[0] in sections:
        section = globals()[str(sections[keys[0]].type)]
        known = [field.name for field in dataclasses.fields(section)] + ["depth"] * (keys[0] == "model")
    close = difflib.get_close_matches(keys[-1], known, n=1)
    return f" (did you mean {close[0]}?)" if close else f"; known are {', '.join(known)}"


def as_dict(params: Any) -> dict[str, Any]:
    """A params object (or one section) as plain dicts and lists, for JSON."""
    return dataclasses.asdict(params)
