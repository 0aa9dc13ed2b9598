"""Generation speed on a GPU: this project's engine beside transformers' `generate`, on the same random weights in bf16.

Both continue prompts of the same random tokens greedily and take turns; figures are medians over all turns. The limit
is what the device's memory allows: the bytes that a step must read, which are those of all matrices and of the keys and
values, over the best rate at which as many were read in the same run.

    python -m benchmarks.gpu_decode --output reports/gpu/decode.json

A first step compiles, and records a CUDA graph. What was compiled is kept on disk (torch's inductor cache), so that a
second run shows what a second start takes; its figures are added to the file:

    python -m benchmarks.gpu_decode --second-start --output reports/gpu/decode.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from benchmarks.inference import (
    Run,
    Size,
    generate_with_transformers,
    llama,
    step_times,
    steps_of,
    write_tokenizer,
)
from llm.files import write_json
from llm.hardware import memory_bandwidth, resolve_device
from llm.inference.decode_step import compile_step
from llm.inference.engine import Engine
from llm.inference.memory_usage import bytes_read_per_step
from llm.interchange.families import to_config
from llm.interchange.names import weight_names
from llm.model import Transformer
from llm.tokenizer import TOKENIZER_NAME

SIZES: dict[str, Size] = {
    "tiny": (2, 128, 2, 1, 384, 1000),
    "124M": (12, 768, 6, 6, 2048, 50304),
    "1B": (16, 2048, 16, 8, 8192, 32768),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", default=["124M", "1B"], choices=list(SIZES))
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 32, 256])
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--context", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=2, help="how often the contenders take turns")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--second-start", action="store_true", help="only the first step of a second process")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()

    device = resolve_device(options.device)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "prompt": options.prompt,
        "new_tokens": options.new_tokens,
        "context": options.context,
        "rows": [],
    }
    if options.second_start and options.output and options.output.is_file():
        report = json.loads(options.output.read_text(encoding="utf-8"))
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            for row in compare(size, Path(folder), device, options):
                print(json.dumps(row), flush=True)
                report["rows"].append(row)
                if options.output:
                    write_json(options.output, report)


def compare(size: str, folder: Path, device: torch.device, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Time the contenders at all batches of one size; gives a row for each."""
    vocab_size = SIZES[size][-1]
    torch.manual_seed(0)
    with device:
        model = Transformer(llama(SIZES[size], options.context), vocab_size)
    model = model.to(torch.bfloat16).eval()
    write_tokenizer(folder / "tokenizer", vocab_size)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / TOKENIZER_NAME))
    engine = Engine(model, tokenizer, step=compile_step(model))
    everyone: dict[str, Run] = {"ours": steps_of(engine)}
    if not options.second_start:
        everyone["ours, eager"] = steps_of(Engine(model, tokenizer))
        everyone["transformers"] = generate_with_transformers(theirs(model), device)
    for batch in options.batches:
        generator = torch.Generator().manual_seed(0)
        prompts = torch.randint(1, vocab_size, (batch, options.prompt), generator=generator).tolist()
        starts = {name: max(step_times(run, prompts, 3)) for name, run in everyone.items()}
        if options.second_start:
            yield {"size": size, "batch": batch, "contender": "ours", "second_start_s": round(starts["ours"], 2)}
            continue
        n_bytes = round(bytes_read_per_step(engine.runner, batch, options.prompt + options.new_tokens / 2))
        rate = 0.0
        times: dict[str, list[list[float]]] = {name: [] for name in everyone}
        for _ in range(options.rounds):
            rate = max(rate, *(memory_bandwidth(device, n) for n in (2**30, n_bytes)))
            for name, run in everyone.items():
                times[name].append(step_times(run, prompts, options.new_tokens))
        for name, runs in times.items():
            first = statistics.median(steps[0] for steps in runs)
            waits = torch.tensor([step for steps in runs for step in steps[1:]])
            step = waits.median().item()
            yield {
                "size": size,
                "parameters": model.n_parameters(),
                "batch": batch,
                "contender": name,
                "decode_tokens_per_s": round(batch / step, 1),
                "decode_range": [round(batch / statistics.median(steps[1:]), 1) for steps in runs],
                **{f"latency_p{q}_ms": round(waits.quantile(q / 100).item() * 1e3, 3) for q in (50, 95, 99)},
                "time_to_first_token_ms": round(first * 1e3, 2),
                "prefill_tokens_per_s": round(batch * options.prompt / first),
                "first_step_s": round(starts[name], 2),
                "bytes_per_step": n_bytes,
                "read_rate_tb_s": round(rate / 1e12, 3),
                "bandwidth_share": round(n_bytes / step / rate, 4),
            }


def theirs(model: Transformer) -> Any:
    """transformers' Llama with the model's weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**to_config(model.params, model.vocab_size, end_of_text=0))
    weight = model.embedding.weight
    with weight.device:
        other: Any = LlamaForCausalLM(config)
    ours = model.state_dict()
    renamed = {names.hugging_face: ours[names.ours] for names in weight_names(model.params)}
    other = other.to(weight.dtype).eval()
    missing = other.load_state_dict(renamed, strict=False).missing_keys
    assert missing == ["lm_head.weight"], missing  # tied
    return other


if __name__ == "__main__":
    main()
