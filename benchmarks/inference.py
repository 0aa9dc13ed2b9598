"""Generation speed: this project's engine against transformers, litgpt and llama.cpp, on the same weights.

Models of about 5, 30 and 110 million parameters with random weights are exported once, and every contender reads the
export: transformers and litgpt the safetensors, llama.cpp the GGUF files (q4_0 is made of f32 by llama.cpp itself).
All use the same number of threads. For each size, batch and prompt length the contenders are warmed up and then take
turns; figures are medians over all turns. Prefill is the time from the prompt to the first token, decode the time
between the tokens after it, so that the two never mix.

The roofline is the best rate at which a block of as many bytes as a decode step reads, or a larger one, was read just
before and just after each turn: what fits into the processor's cache is read faster than memory, and a shared machine's
memory is faster at one moment than at another. The bytes of a step are those of all matrices and of the key-value
cache; the embedding table is looked up and does not count.

litgpt asks for an older huggingface-hub than transformers does; it runs with the newer one too:

    pip install transformers llama-cpp-python
    pip install --no-deps litgpt lightning lightning-utilities torchmetrics "jsonargparse<4.42"
    python -m benchmarks.inference --output reports/benchmarks/inference.json --plot docs/images/inference.png
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from benchmarks.litgpt_model import litgpt_config
from llm.benchmark import MEMORY_BLOCK, measure_read_bandwidth
from llm.config import ExportParams, ModelParams, load_params
from llm.files import write_json
from llm.hardware import last_level_cache_bytes, synchronize
from llm.inference.decode_step import NativeStep, compile_step
from llm.inference.engine import Engine
from llm.inference.memory_usage import bytes_read_per_step
from llm.inference.native import NativeModel
from llm.inference.quantization import quantize_model
from llm.interchange.export import export
from llm.interchange.importing import open_pretrained
from llm.model import Transformer
from llm.model_folder import load_model_folder, save_model_folder
from llm.pre_tokenizers import PATTERN
from llm.tokenizer import END_OF_TEXT, TOKENIZER_NAME

Size = tuple[int, int, int, int, int, int]  # n_layers, d_model, n_heads, n_kv_heads, d_ff, vocabulary
SIZES: dict[str, Size] = {
    "5M": (4, 256, 4, 2, 704, 8192),
    "30M": (8, 512, 8, 4, 1408, 16000),
    "110M": (12, 768, 12, 12, 2048, 32000),
}
CONTEXT = 1024
CPU = torch.device("cpu")
# A contender: prompts of equal length, and the number of new tokens -> the moments of the start and of each new token
Run = Callable[[list[list[int]], int], list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--prompts", nargs="*", type=int, default=[16, 512], help="lengths in tokens")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2, help="how often the contenders take turns")
    parser.add_argument("--only", nargs="*", default=None, help="names of contenders; all by default")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    parser.add_argument("--plot", type=Path, default=None, help="draw the decode rates")
    options = parser.parse_args()

    report: dict[str, Any] = {"threads": torch.get_num_threads(), "new_tokens": options.new_tokens, "rows": []}
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            report["rows"] += compare(size, Path(folder), options)
    report["last_level_cache_bytes"] = last_level_cache_bytes(CPU)
    print(table(report["rows"]))
    print(json.dumps({key: value for key, value in report.items() if key != "rows"}))
    if options.output:
        write_json(options.output, report)
    if options.plot:
        plot(report["rows"], options.plot)


def compare(size: str, folder: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time all contenders at all batches and prompts of one size."""
    exported = export_random_model(size, folder)
    everyone: dict[str, Run] = {}
    engines: dict[str, Engine] = {}
    for name, run, engine in (*ours(folder / "final"), *theirs(exported), *litgpt(exported), *llama_cpp(exported)):
        if not options.only or name in options.only:
            everyone[name] = run
            if engine:
                engines[name] = engine
    vocab_size = SIZES[size][-1]
    for batch, length in itertools.product(options.batches, options.prompts):
        generator = torch.Generator().manual_seed(0)
        prompts = torch.randint(1, vocab_size, (batch, length), generator=generator).tolist()
        # Without a cache a batch takes minutes and shows nothing new.
        turns = {name: run for name, run in everyone.items() if batch == 1 or not name.endswith("no cache")}
        times: dict[str, list[list[float]]] = {name: [] for name in turns}
        for run in turns.values():
            step_times(run, prompts, 2)
        mean_length = length + options.new_tokens / 2
        read = {name: round(bytes_read_per_step(engine.runner, batch, mean_length)) for name, engine in engines.items()}
        limits: dict[str, list[float]] = {name: [] for name in read}  # bytes/s, beside each turn
        for _ in range(options.rounds):
            for name, run in turns.items():
                before = limit(read[name]) if name in read else 0.0
                times[name].append(step_times(run, prompts, options.new_tokens))
                if name in read:
                    limits[name].append(max(before, limit(read[name])))
        for name, runs in times.items():
            first = statistics.median(steps[0] for steps in runs)
            decode = statistics.median(step for steps in runs for step in steps[1:])
            row = {
                "size": size,
                "batch": batch,
                "prompt": length,
                "contender": name,
                "time_to_first_token_ms": round(first * 1e3, 2),
                "prefill_tokens_per_s": round(batch * length / first, 1),
                "decode_tokens_per_s": round(batch / decode, 1),
                "decode_range": [round(batch / statistics.median(steps[1:]), 1) for steps in runs],
            }
            if name in read:
                moved = [read[name] / statistics.median(steps[1:]) for steps in runs]
                shares = [rate / most for rate, most in zip(moved, limits[name], strict=True)]
                row["bytes_per_step"] = read[name]
                row["read_limit_gb_s"] = [round(most / 1e9, 1) for most in limits[name]]
                row["bandwidth_share"] = round(statistics.median(shares), 3)
            print(json.dumps(row), flush=True)
            yield row


def limit(n_bytes: int) -> float:
    """The best rate in bytes per second at which this many bytes, or more than the processor's cache, are read now."""
    return max(measure_read_bandwidth(CPU, n) for n in (MEMORY_BLOCK, n_bytes))


def step_times(run: Run, prompts: list[list[int]], new_tokens: int) -> list[float]:
    """Seconds to the first token and between the others."""
    return [end - start for start, end in itertools.pairwise(run(prompts, new_tokens))]


def export_random_model(size: str, folder: Path) -> Path:
    """A model folder with random weights, and its export beside it."""
    vocab_size = SIZES[size][-1]
    params = llama(SIZES[size], CONTEXT)
    write_tokenizer(folder / "tokenizer", vocab_size)
    torch.manual_seed(0)
    weights = Transformer(params, vocab_size).state_dict()
    del weights["head.weight"]
    save_model_folder(folder / "final", params, vocab_size, [("model.safetensors", weights)], folder / "tokenizer", {})
    export(folder / "final", folder / "export", ExportParams(4096, ["f32", "bf16", "q8_0"]), folder, "model")
    return folder / "export"


def llama(size: Size, context: int) -> ModelParams:
    """A Llama of that size, whose head is its embedding."""
    n_layers, d_model, n_heads, n_kv_heads, d_ff, _ = size
    return replace(
        load_params().model,
        n_layers=n_layers,
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=None,
        d_ff=d_ff,
        context_length=context,
        qk_norm=False,
        tied_embeddings=True,
    )


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """A byte-level BPE of the right size: byte pairs, then pairs of pairs."""
    names = [END_OF_TEXT, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    for left, right in itertools.product(names[1:], repeat=2):
        if len(names) == vocab_size:
            break
        names.append(left + right)
        merges.append((left, right))
    assert len(names) == vocab_size
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    folder.mkdir()
    tokenizer.save(str(folder / TOKENIZER_NAME))


Contender = tuple[str, Run, Engine | None]  # an engine's share of memory's rate is reported


def ours(folder: Path) -> Iterator[Contender]:
    """This project's engine, native and eager."""
    for name, dtype, kind in (
        ("fp32", torch.float32, None),
        ("bf16", torch.bfloat16, None),
        ("int8", torch.bfloat16, "int8"),
        ("int4", torch.bfloat16, "int4"),
    ):
        model, tokenizer, _ = load_model_folder(folder, CPU, dtype)
        if kind:
            quantize_model(model, kind)  # type: ignore[arg-type]
        step = compile_step(model)
        engine = Engine(model, tokenizer, step=step)
        yield f"ours {name}", steps_of(engine), engine
        if dtype == torch.bfloat16 and not kind:
            unpacked = Engine(model, tokenizer, step=NativeStep(NativeModel(model, pack=False)))
            yield f"ours {name} unpacked", steps_of(unpacked), unpacked
        if not kind:
            yield f"ours {name} eager", steps_of(Engine(model, tokenizer)), None
            if dtype == torch.bfloat16:
                yield f"ours {name} no cache", steps_of(Engine(model, tokenizer), cache="none"), None


def steps_of(engine: Engine, cache: Literal["contiguous", "none"] = "contiguous") -> Run:
    def run(prompts: list[list[int]], new_tokens: int) -> list[float]:
        start = time.perf_counter()
        return [start, *(time.perf_counter() for _ in engine.steps(prompts, new_tokens, cache=cache))]

    return run


def theirs(folder: Path) -> Iterator[Contender]:
    """transformers' model of the export."""
    from transformers import AutoModelForCausalLM

    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        yield f"transformers {name}", generate_with_transformers(model, CPU), None


def generate_with_transformers(model: Any, device: torch.device) -> Run:
    """Its greedy `generate`; the moment of each token is when the stopping criteria are asked."""
    from transformers import GenerationConfig

    def run(prompts: list[list[int]], new_tokens: int) -> list[float]:
        moments: list[float] = []

        def note(*_: Any, **__: Any) -> torch.Tensor:
            synchronize(device)
            moments.append(time.perf_counter())
            return torch.zeros(len(prompts), dtype=torch.bool, device=device)

        config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0)
        start = time.perf_counter()
        ids = torch.tensor(prompts, device=device)
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config, stopping_criteria=[note])
        return [start, *moments]

    return run


def litgpt(folder: Path) -> Iterator[Contender]:
    """litgpt's model with its static cache, in a greedy loop of our own: its own `generate` takes only one sequence."""
    try:
        import litgpt
    except ImportError:
        print("litgpt is not installed: left out")
        return
    pretrained = open_pretrained(folder)
    shape = litgpt_config(pretrained.params, pretrained.vocab_size)
    weights = load_file(folder / "model.safetensors")
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = litgpt.GPT(shape)
        model.load_state_dict(litgpt_names(weights, shape.n_layer), strict=True)
        model = model.to(dtype).eval()

        def run(prompts: list[list[int]], new_tokens: int, model: Any = model) -> list[float]:
            new, at = torch.tensor(prompts), 0
            model.max_seq_length = new.shape[1] + new_tokens
            model.set_kv_cache(batch_size=len(prompts), device=CPU, dtype=model.lm_head.weight.dtype)
            moments = [time.perf_counter()]
            with torch.inference_mode():
                for _ in range(new_tokens):
                    positions = torch.arange(at, at + new.shape[1])
                    at += new.shape[1]
                    new = model(new, positions, input_pos_maxp1=at)[:, -1:].argmax(dim=-1)
                    moments.append(time.perf_counter())
            return moments

        yield f"litgpt {name}", run, None


def litgpt_names(weights: dict[str, torch.Tensor], n_layers: int) -> dict[str, torch.Tensor]:
    """An exported Llama's weights, as litgpt calls them."""
    embedding = weights["model.embed_tokens.weight"]
    renamed = {
        "transformer.wte.weight": embedding,
        "lm_head.weight": weights.get("lm_head.weight", embedding),
        "transformer.ln_f.weight": weights["model.norm.weight"],
    }
    for i in range(n_layers):
        theirs, ours = f"model.layers.{i}.", f"transformer.h.{i}."
        qkv = [weights[f"{theirs}self_attn.{name}_proj.weight"] for name in "qkv"]
        renamed[f"{ours}attn.qkv.weight"] = torch.cat(qkv)
        for a, b in (
            ("input_layernorm", "norm_1"),
            ("self_attn.o_proj", "attn.proj"),
            ("post_attention_layernorm", "norm_2"),
            ("mlp.gate_proj", "mlp.fc_1"),
            ("mlp.up_proj", "mlp.fc_2"),
            ("mlp.down_proj", "mlp.proj"),
        ):
            renamed[f"{ours}{b}.weight"] = weights[f"{theirs}{a}.weight"]
    return renamed


def llama_cpp(folder: Path) -> Iterator[Contender]:
    """llama.cpp through its C interface, greedy, all sequences of a batch in one call."""
    try:
        import llama_cpp as llama
    except ImportError:
        print("llama-cpp-python is not installed: left out")
        return
    silent = llama.llama_log_callback(lambda *_: None)  # llama.cpp may call it: must stay alive
    llama.llama_log_set(silent, None)
    quantization = llama.llama_model_quantize_default_params()
    quantization.ftype = llama.LLAMA_FTYPE_MOSTLY_Q4_0
    files = {kind: folder / f"model-{kind}.gguf" for kind in ("f32", "bf16", "q8_0", "q4_0")}
    llama.llama_model_quantize(bytes(files["f32"]), bytes(files["q4_0"]), quantization)
    for kind, file in files.items():
        model = llama.llama_model_load_from_file(bytes(file), llama.llama_model_default_params())

        def run(prompts: list[list[int]], new_tokens: int, model: Any = model, _: Any = silent) -> list[float]:
            n_sequences, length = len(prompts), len(prompts[0])
            params = llama.llama_context_default_params()
            params.n_ctx, params.n_batch = n_sequences * (length + new_tokens), n_sequences * length
            params.n_seq_max, params.n_threads = n_sequences, torch.get_num_threads()
            params.n_threads_batch = params.n_threads
            context = llama.llama_init_from_model(model, params)
            batch = llama.llama_batch_init(n_sequences * length, 0, 1)
            n_vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
            new, position, moments = prompts, 0, [time.perf_counter()]
            for _ in range(new_tokens):
                batch.n_tokens = 0
                for sequence, tokens in enumerate(new):
                    for i, token in enumerate(tokens):
                        n = batch.n_tokens
                        batch.token[n], batch.pos[n], batch.logits[n] = token, position + i, i == len(tokens) - 1
                        batch.n_seq_id[n], batch.seq_id[n][0] = 1, sequence
                        batch.n_tokens += 1
                if llama.llama_decode(context, batch):
                    raise RuntimeError("llama_decode failed")
                position += len(new[0])
                ends = itertools.accumulate(len(tokens) for tokens in new)
                rows = [llama.llama_get_logits_ith(context, end - 1) for end in ends]
                new = [[int(np.ctypeslib.as_array(row, (n_vocab,)).argmax())] for row in rows]
                moments.append(time.perf_counter())
            llama.llama_batch_free(batch)
            llama.llama_free(context)
            return moments

        yield f"llama.cpp {kind}", run, None


def table(rows: list[dict[str, Any]]) -> str:
    """Prefill and decode rates, a line for each contender."""
    columns = list(dict.fromkeys((row["size"], row["batch"], row["prompt"]) for row in rows))
    cells = {(row["contender"], row["size"], row["batch"], row["prompt"]): row for row in rows}
    parts = []
    for key, title in (("decode_tokens_per_s", "decode"), ("prefill_tokens_per_s", "prefill")):
        lines = [
            f"| {title}, tokens/s | " + " | ".join(f"{size}, batch {b}, prompt {p}" for size, b, p in columns) + " |",
            "|---" * (len(columns) + 1) + "|",
        ]
        for name in dict.fromkeys(row["contender"] for row in rows):
            values = [cells.get((name, *column), {}).get(key) for column in columns]
            shown = ("" if v is None else f"{v:,.0f}" if v >= 100 else f"{v:.1f}" for v in values)
            lines.append(f"| {name} | " + " | ".join(shown) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Decode rates of the smallest batch and prompt, a panel for each size."""
    import matplotlib.pyplot as plt

    sizes = list(dict.fromkeys(row["size"] for row in rows))
    figure, panels = plt.subplots(1, len(sizes), figsize=(4.5 * len(sizes), 4.5), squeeze=False)
    for size, panel in zip(sizes, panels[0], strict=True):
        of_size = [row for row in rows if row["size"] == size]
        first = min((row["batch"], row["prompt"]) for row in of_size)
        shown = [row for row in of_size if (row["batch"], row["prompt"]) == first][::-1]
        colors = ["tab:blue" if row["contender"].startswith("ours") else "tab:gray" for row in shown]
        bars = panel.barh(
            [row["contender"] for row in shown], [row["decode_tokens_per_s"] for row in shown], color=colors
        )
        panel.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=8)
        panel.margins(x=0.25)  # room for the numbers
        panel.set_title(f"{size} parameters, batch {first[0]}, prompt {first[1]}", fontsize=10)
        panel.set_xlabel("decode, tokens/s")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
