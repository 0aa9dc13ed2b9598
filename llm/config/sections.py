"""The pipeline's parameters: one frozen dataclass per section of params.yaml.

Worth knowing:

- params.yaml is the only place where values are written. The dataclasses have no defaults, so a key that is missing is
  an error, every key can be set with ``dvc exp run -S``, and nothing is defined twice. The exceptions are features of
  `ModelParams`, which are off where nothing is said of them.
- The range of a value is declared at its field (llm.config.ranges). Constraints between the fields of a section are
  checked in its ``__post_init__``, those between sections in that of `Params`; all of them also for objects built in
  code.
- Only the standard library is needed: the model, the trainer and the inference engine also run where pydantic and
  ruamel.yaml are not installed.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from llm.config.ranges import Items, Pattern, at_least, between, check_fields, greater_than, require

MAX_SEED = 2**63 - 1  # torch's generators take no larger ones
DEVICE = Pattern("auto|cpu|cuda(:[0-9]+)?", "auto, cpu, cuda or cuda:N")

Auto = Literal["auto"]
Precision = Literal["auto", "bf16", "fp16", "fp32"]
BenchmarkMode = Literal["no_cache", "cache", "compiled", "int8", "int4", "int8_cache", "speculative"]
GgufType = Literal["f32", "bf16", "q8_0"]
Projection = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def check_device(name: str) -> None:
    """Raise a ValueError unless this names a device that the project can use, whether or not this machine has it."""
    require(DEVICE.accepts(name), "device", name, DEVICE.must)


class Section:
    """The base of all sections: unknown keys, values of another type and values out of range are errors."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class SampleParams(Section):
    """The built-in corpus."""

    seed: Annotated[int, at_least(0)]
    n_pdf_pages: Annotated[int, at_least(0)]
    n_images: Annotated[int, at_least(0)]
    n_code_files: Annotated[int | None, at_least(0)]


@dataclass(frozen=True)
class WorkerParams(Section):
    """The processes that read files and, on a cluster, encode documents."""

    backend: Literal["local", "ray"]
    count: Annotated[int | Auto, at_least(1)]
    ray_address: str
    timeout_s: Annotated[float, greater_than(0)]
    memory_mib: Annotated[float, at_least(512)]  # less is not even enough for the libraries


@dataclass(frozen=True)
class IngestParams(Section):
    """From files to documents."""

    source: Annotated[str, Pattern(r".*\S.*", "a folder or a URL")]
    max_file_mib: Annotated[float, greater_than(0)]
    max_document_chars: Annotated[int, at_least(1000)]
    text_column: Annotated[str, Pattern(r".*\S.*", "the name of a column")]
    max_members: Annotated[int, at_least(1)]
    max_unpacked_mib: Annotated[float, greater_than(0)]
    max_unpacked_ratio: Annotated[float, at_least(1)]
    max_archive_depth: Annotated[int, at_least(0)]
    ocr: Literal["auto", "always", "never"]
    ocr_engine: Literal["auto", "rapidocr", "tesseract"]
    ocr_languages: Annotated[list[str], Items(Pattern("[a-z]{2}", "a two-letter code such as en"), empty=True)]
    ocr_dpi: Annotated[int, between(50, 600)]
    ocr_min_confidence: Annotated[float, between(0, 1)]
    near_duplicate_threshold: Annotated[float, greater_than(0, up_to=1)]
    val_fraction: Annotated[float, greater_than(0, up_to=0.5)]
    test_fraction: Annotated[float, greater_than(0, up_to=0.5)]
    split_seed: Annotated[int, at_least(0)]
    cache_keep_runs: Annotated[int, at_least(1)]
    cache_max_gib: Annotated[float, at_least(0)]


@dataclass(frozen=True)
class FilterParams(Section):
    """Which documents are good enough; None turns a rule off."""

    min_chars: Annotated[int, at_least(1)]
    min_ocr_confidence: Annotated[float | None, between(0, 1)]
    drop_generated_code: bool
    minified_line_chars: Annotated[int | None, at_least(1)]
    minified_max_blanks: Annotated[float, between(0, 1)]
    max_symbol_ratio: Annotated[float | None, at_least(0)]
    max_digit_ratio: Annotated[float | None, between(0, 1)]
    min_mean_word_length: Annotated[float | None, at_least(0)]
    max_mean_word_length: Annotated[float | None, greater_than(0)]
    max_duplicate_lines: Annotated[float | None, between(0, 1)]
    max_duplicate_line_chars: Annotated[float | None, between(0, 1)]
    max_duplicate_paragraphs: Annotated[float | None, between(0, 1)]
    max_duplicate_paragraph_chars: Annotated[float | None, between(0, 1)]
    max_top_2gram: Annotated[float | None, between(0, 1)]
    max_top_3gram: Annotated[float | None, between(0, 1)]
    max_top_4gram: Annotated[float | None, between(0, 1)]
    max_duplicate_5gram: Annotated[float | None, between(0, 1)]
    max_duplicate_6gram: Annotated[float | None, between(0, 1)]
    max_duplicate_7gram: Annotated[float | None, between(0, 1)]
    max_duplicate_8gram: Annotated[float | None, between(0, 1)]
    max_duplicate_9gram: Annotated[float | None, between(0, 1)]
    max_duplicate_10gram: Annotated[float | None, between(0, 1)]
    boilerplate_documents: Annotated[int | None, at_least(2)]
    languages: Annotated[list[str], Items(Pattern("[a-z]{2}", "a two-letter code such as en"), empty=True)]


@dataclass(frozen=True)
class ScrubParams(Section):
    """What is replaced by a placeholder."""

    emails: bool
    ip_addresses: bool
    phone_numbers: bool
    phone_region: Annotated[str | None, Pattern("[A-Z]{2}", "a two-letter country code such as DE, or empty")]
    secrets: bool


@dataclass(frozen=True)
class TokenizeParams(Section):
    """The byte-level BPE tokenizer and its token shards."""

    vocab_size: Annotated[int, between(257, 2**24)]  # 256 bytes and the end-of-text token at least
    min_frequency: Annotated[int, at_least(1)]
    shard_tokens: Annotated[int, at_least(1024)]


@dataclass(frozen=True)
class IndexParams(Section):
    """The indexes over the train split's tokens and over all passages."""

    enabled: bool


@dataclass(frozen=True)
class RopeScaling(Section):
    """How rotary angles are slowed down, so that a model reads texts longer than those it was first trained on.

    ``linear`` divides every frequency by `factor`. ``llama3`` and ``yarn`` (Peng et al. 2023) divide only those that
    make fewer than `low_freq_factor` turns within `original_context`, keep those that make more than
    `high_freq_factor`, and interpolate between the two. yarn's own names for these are beta_slow and beta_fast.
    """

    type: Literal["linear", "llama3", "yarn"]
    factor: Annotated[float, at_least(1)]
    original_context: Annotated[int | None, at_least(2)] = None
    low_freq_factor: Annotated[float | None, greater_than(0)] = None
    high_freq_factor: Annotated[float | None, greater_than(0)] = None
    attention_factor: Annotated[float | None, greater_than(0)] = None  # scales queries and keys; yarn alone has it

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.type in ("linear", "llama3", "yarn"), "type", self.type, "linear, llama3 or yarn")
        is_linear, name = self.type == "linear", f"where rope_scaling.type is {self.type}"
        for key in ("original_context", "low_freq_factor", "high_freq_factor"):
            value = getattr(self, key)
            require((value is None) == is_linear, key, value, f"{'empty' if is_linear else 'a number'} {name}")
        low, high = self.low_freq_factor, self.high_freq_factor
        if low is not None and high is not None:
            require(low < high, "low_freq_factor", low, f"below high_freq_factor ({high})")
        require(
            self.type == "yarn" or self.attention_factor is None, "attention_factor", self.attention_factor, "empty"
        )

    @property
    def amplitude(self) -> float:
        """What cosines and sines are multiplied with: yarn makes attention sharper the longer the context."""
        if self.type != "yarn":
            return 1.0
        return self.attention_factor or 0.1 * math.log(self.factor) + 1


@dataclass(frozen=True)
class ModelParams(Section):
    """The transformer's shape; the vocabulary size comes from the tokenizer.

    `depth`, which sets the keys that are ``auto`` (llm.config.auto), is not a field. The fields with a default are
    features of published models, off by default; folders of older versions lack them.
    """

    OFF_VALUES: ClassVar[dict[str, Any]] = {}  # filled in below: the default of each field that has one

    # The upper ends are beyond any model there is, so that a damaged file does not ask for all memory.
    n_layers: Annotated[int, between(1, 10_000)]
    d_model: Annotated[int, between(1, 2**20)]
    n_heads: Annotated[int, between(1, 2**20)]
    n_kv_heads: Annotated[int, between(1, 2**20)]
    d_head: Annotated[int | None, at_least(2)]
    d_ff: Annotated[int, between(1, 2**20)]
    context_length: Annotated[int, between(2, 2**24)]
    rope_theta: Annotated[float, greater_than(0)]
    norm_eps: Annotated[float, greater_than(0)]
    qk_norm: bool
    tied_embeddings: bool
    rope_scaling: RopeScaling | None = None
    nope_interval: Annotated[int, at_least(0)] = 0
    qkv_bias: bool = False
    joint_qk_norm: bool = False
    norm_after: bool = False

    def __post_init__(self) -> None:
        scaling: Any = self.rope_scaling
        if scaling is not None and not isinstance(scaling, RopeScaling):  # an object of a model folder's config.json
            object.__setattr__(self, "rope_scaling", RopeScaling(**scaling))
        super().__post_init__()
        require(self.qk_norm or not self.joint_qk_norm, "joint_qk_norm", self.joint_qk_norm, "false without qk_norm")
        width = f"model.d_model ({self.d_model})"
        if self.d_head is None:
            require(self.d_model % self.n_heads == 0, "n_heads", self.n_heads, f"a divisor of {width}")
            require(self.head_dim % 2 == 0, "d_model", self.d_model, "an even multiple of n_heads (rotary positions)")
        else:
            require(self.d_head % 2 == 0, "d_head", self.d_head, "even (rotary positions)")
        heads = f"model.n_heads ({self.n_heads})"
        require(self.n_heads % self.n_kv_heads == 0, "n_kv_heads", self.n_kv_heads, f"a divisor of {heads}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_head or self.d_model // self.n_heads

    def has_rope(self, layer: int) -> bool:
        """Whether a layer, counted from 0, turns its queries and keys by their positions."""
        return self.nope_interval == 0 or (layer + 1) % self.nope_interval != 0


ModelParams.OFF_VALUES = {
    one.name: one.default for one in dataclasses.fields(ModelParams) if one.default is not dataclasses.MISSING
}


@dataclass(frozen=True)
class TrainParams(Section):
    """The training run."""

    init_from: str | None
    resume_from: str | None
    lora_rank: Annotated[int, at_least(0)]
    lora_alpha: Annotated[float, greater_than(0)]
    lora_modules: list[Projection]
    seed: Annotated[int, between(0, MAX_SEED)]
    max_steps: Annotated[int, at_least(1)]
    tokens_per_parameter: Annotated[float, greater_than(0)]
    batch_size: Annotated[int, at_least(1)]
    grad_accum_steps: Annotated[int, at_least(1)]
    packing: Literal["stream", "documents"]
    document_attention: bool
    optimizer: Literal["muon", "adamw"]
    lr: Annotated[float, greater_than(0)]
    head_lr: Annotated[float, greater_than(0)]
    muon_lr: Annotated[float, greater_than(0)]
    muon_momentum: Annotated[float, between(0, 0.99999)]
    muon_momentum_warmup: Annotated[int, at_least(0)]
    muon_beta2: Annotated[float, between(0, 0.99999)]
    muon_iterations: Literal[3, 4, 5]
    schedule: Literal["cosine", "wsd"]
    decay_fraction: Annotated[float, greater_than(0, up_to=1)]
    min_lr_ratio: Annotated[float, between(0, 1)]
    warmup_steps: Annotated[int, at_least(0)]
    weight_decay: Annotated[float, at_least(0)]
    beta1: Annotated[float, between(0, 0.99999)]
    beta2: Annotated[float, between(0, 0.99999)]
    adam_eps: Annotated[float, greater_than(0)]
    grad_clip: Annotated[float, at_least(0)]
    precision: Precision
    residual: Literal["auto", "fp32", "bf16"]
    device: Annotated[str, DEVICE]
    compile: bool | Auto
    loss: Literal["auto", "full", "chunked", "liger"]
    activation_checkpointing: bool
    parallel: Literal["none", "ddp", "fsdp"]
    launcher: Literal["none", "torchrun"]
    n_processes: Annotated[int | Auto, at_least(1)]
    eval_interval: Annotated[int, at_least(1)]
    eval_tokens: Annotated[int, at_least(1)]
    checkpoint_interval: Annotated[int, at_least(1)]
    keep_checkpoints: Annotated[int, at_least(1)]
    max_bad_steps: Annotated[int, at_least(1)]
    stall_timeout_s: Annotated[float, greater_than(0)]
    final_weights: Literal["best", "last"]
    tensorboard: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = f"at most train.max_steps ({self.max_steps})"
        require(self.warmup_steps <= self.max_steps, "warmup_steps", self.warmup_steps, longest)
        if self.lora_rank:
            no_base = "0 where train.init_from names no model to adapt"
            require(bool(self.init_from), "lora_rank", self.lora_rank, no_base)
            require(len(self.lora_modules) > 0, "lora_modules", self.lora_modules, "a list of one projection or more")
            # Muon is for maps between hidden states. An adapter's factors are not such maps, only their product is.
            require(self.optimizer == "adamw", "optimizer", self.optimizer, "adamw where train.lora_rank is not 0")
        alone = self.parallel == "none" and self.n_processes not in (1, "auto")
        require(not alone, "n_processes", self.n_processes, "1 unless train.parallel is ddp or fsdp")
        unscaled = self.parallel == "fsdp" and self.precision == "fp16"
        require(not unscaled, "precision", self.precision, "bf16 or fp32 with fsdp")


@dataclass(frozen=True)
class EvaluateParams(Section):
    """Held-out quality and sample continuations."""

    device: Annotated[str, DEVICE]
    seed: Annotated[int, between(0, MAX_SEED)]
    stride: Annotated[int, at_least(1)]
    batch_size: Annotated[int, at_least(1)]
    prompts_per_modality: Annotated[int, at_least(0)]
    prompt_tokens: Annotated[int, at_least(1)]
    new_tokens: Annotated[int, at_least(1)]
    temperature: Annotated[float, at_least(0)]
    top_k: Annotated[int, at_least(0)]
    top_p: Annotated[float, greater_than(0, up_to=1)]
    memorization_samples: Annotated[int, at_least(0)]


@dataclass(frozen=True)
class BenchmarkParams(Section):
    """The generation benchmark."""

    device: Annotated[str, DEVICE]
    modes: Annotated[list[BenchmarkMode], Items(distinct=True)]
    prompt_lengths: Annotated[list[int], Items(at_least(1))]
    batch_sizes: Annotated[list[int], Items(at_least(1))]
    new_tokens: Annotated[int, at_least(2)]
    repeats: Annotated[int, at_least(1)]
    quality_tokens: Annotated[int, at_least(0)]
    precision: Precision


@dataclass(frozen=True)
class ExportParams(Section):
    """The model in the formats that other programs read."""

    shard_mib: Annotated[float, greater_than(0)]
    gguf: list[GgufType]


@dataclass(frozen=True)
class PlotParams(Section):
    """Figures."""

    dpi: Annotated[int, between(40, 600)]
    n_embedding_tokens: Annotated[int, at_least(10)]
    n_neighbors: Annotated[int, at_least(1)]
    neighbor_words: list[str]


@dataclass(frozen=True)
class Params(Section):
    """All of params.yaml."""

    sample: SampleParams
    workers: WorkerParams
    ingest: IngestParams
    filters: FilterParams
    scrub: ScrubParams
    tokenize: TokenizeParams
    index: IndexParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams
    benchmark: BenchmarkParams
    export: ExportParams
    plot: PlotParams

    def __post_init__(self) -> None:
        context, benchmark, evaluate = self.model.context_length, self.benchmark, self.evaluate
        require(
            max(benchmark.prompt_lengths) + benchmark.new_tokens <= context,
            "benchmark.prompt_lengths",
            benchmark.prompt_lengths,
            f"short enough that the longest and benchmark.new_tokens ({benchmark.new_tokens}) "
            f"fit into model.context_length ({context})",
        )
        require(
            evaluate.prompt_tokens + evaluate.new_tokens <= context,
            "evaluate.prompt_tokens",
            evaluate.prompt_tokens,
            f"at most model.context_length - evaluate.new_tokens ({context - evaluate.new_tokens})",
        )
        longest = f"at most model.context_length ({context})"
        require(evaluate.stride <= context, "evaluate.stride", evaluate.stride, longest)


def as_dict(params: Any) -> dict[str, Any]:
    """A params object (or one section) as plain dicts and lists, for JSON."""
    return dataclasses.asdict(params)
