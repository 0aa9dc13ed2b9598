"""LoRA on a CPU: tokens per second of processor time and peak memory, beside transformers with peft.

    python -m benchmarks.lora --output reports/benchmarks/lora.json

The model has the shape of SmolLM2-135M and random weights in bf16, as the published ones are. All contenders train
adapters of rank 8 on all projections of the blocks, in bf16, on the same number of random tokens a step, each in a
process of its own; they take turns. Processor time counts, so that other programs on the machine hardly matter.
Needs `pip install -e '.[bench]' peft`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer

from benchmarks.train import write_random_tokens
from benchmarks.turns import Worker
from llm.config import ModelParams, load_params
from llm.files import write_json
from llm.hardware import keep_freed_memory, peak_memory_bytes
from llm.interchange.families import to_config
from llm.interchange.names import weight_names
from llm.model import Transformer
from llm.model_folder import WEIGHTS_NAME, save_model_folder, tied
from llm.tokenizer import END_OF_TEXT, load_tokenizer, tokenizer_sha256, train_tokenizer
from llm.training.distributed import World
from llm.training.run import Run

CONTEXT, BATCH, ACCUMULATE, RANK, VOCAB_SIZE = 512, 2, 2, 8, 49_152
STEP_TOKENS = CONTEXT * BATCH * ACCUMULATE
SHAPE = ModelParams(
    n_layers=30,
    d_model=576,
    n_heads=9,
    n_kv_heads=3,
    d_head=None,
    d_ff=1536,
    context_length=CONTEXT,
    rope_theta=100_000.0,
    norm_eps=1e-5,
    qk_norm=False,
    tied_embeddings=True,
)
CONTENDERS: dict[str, dict[str, Any]] = {
    "ours, compiled": {"ours": True, "compiled": True},
    "transformers + peft, compiled": {"ours": False, "compiled": True},
    "ours, eager": {"ours": True, "compiled": False},
    "transformers + peft, eager": {"ours": False, "compiled": False},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="how often the contenders take turns")
    parser.add_argument("--steps", type=int, default=2, help="steps in each turn")
    parser.add_argument("--only", nargs="*", default=list(CONTENDERS), help="contenders to run, by name")
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in options.only}
    peaks: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        write_inputs(folder)
        workers = {name: stack.enter_context(Worker(work, name, folder)) for name in options.only}
        for worker in workers.values():
            worker.ask(1)
        for _ in range(options.rounds):
            for name, worker in workers.items():
                times, peaks[name] = worker.ask(options.steps)
                seconds[name] += times
    report = {
        "threads": torch.get_num_threads(),
        "tokens_per_step": STEP_TOKENS,
        "contenders": {
            name: {
                "tokens_per_processor_second": round(STEP_TOKENS / statistics.median(cpu for cpu, _ in times), 1),
                "tokens_per_s": round(STEP_TOKENS / statistics.median(wall for _, wall in times), 1),
                "peak_mib": round(peaks[name] / 2**20),
            }
            for name, times in seconds.items()
        },
    }
    print(json.dumps(report, indent=2))
    if options.output:
        write_json(options.output, report)


def write_inputs(folder: Path) -> None:
    """A model folder in bf16, a Hugging Face folder with the same weights, and random tokens."""
    write_random_tokens(folder, VOCAB_SIZE)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    meta = json.loads((folder / "tokens.json").read_text())
    write_json(folder / "tokens.json", {**meta, "tokenizer_sha256": tokenizer_sha256(load_tokenizer(folder))})
    torch.manual_seed(0)
    weights = {name: tensor.bfloat16() for name, tensor in tied(Transformer(SHAPE, VOCAB_SIZE)).items()}
    save_model_folder(folder / "base", SHAPE, VOCAB_SIZE, [(WEIGHTS_NAME, weights)], folder, {})
    published = folder / "published"
    published.mkdir()
    theirs = {one.hugging_face: weights[one.ours] for one in weight_names(SHAPE)}
    save_file(theirs, published / "model.safetensors", {"format": "pt"})
    write_json(published / "config.json", {**to_config(SHAPE, VOCAB_SIZE, 0), "torch_dtype": "bfloat16"})


def _tokenizer() -> Tokenizer:
    """A byte-level BPE whose merges are pairs of bytes, as many as fit."""
    content = json.loads(train_tokenizer([], load_params().tokenize).to_str())
    vocab = content["model"]["vocab"]
    letters = [token for token in vocab if token != END_OF_TEXT]
    merges = [[a, b] for a in letters for b in letters][: VOCAB_SIZE - len(vocab)]
    vocab |= {a + b: len(vocab) + i for i, (a, b) in enumerate(merges)}
    content["model"]["merges"] = merges
    return Tokenizer.from_str(json.dumps(content))


def work(connection: Connection, name: str, folder: Path) -> None:
    """Make as many steps as asked for; answers with their processor and wall seconds, and the peak memory."""
    settings = CONTENDERS[name]
    step = (_ours if settings["ours"] else _peft)(folder, settings["compiled"])
    while True:
        times = []
        for _ in range(connection.recv()):
            start = time.process_time(), time.perf_counter()
            step()
            times.append((time.process_time() - start[0], time.perf_counter() - start[1]))
        connection.send((times, peak_memory_bytes(torch.device("cpu"))))


def _ours(folder: Path, compiled: bool) -> Callable[[], Any]:
    keep_freed_memory()
    settings = [
        *(f"train.init_from={folder / 'base'}", f"train.lora_rank={RANK}", "train.optimizer=adamw", "train.lr=1.0e-3"),
        *(f"train.batch_size={BATCH}", f"train.grad_accum_steps={ACCUMULATE}", f"train.compile={compiled}".lower()),
        *("train.precision=bf16", "train.max_steps=1000", "train.device=cpu"),
    ]
    run = Run(SHAPE, load_params(settings=settings).train, folder, folder, World(torch.device("cpu")))
    return run.step


def _peft(folder: Path, compiled: bool) -> Callable[[], Any]:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder / "published", dtype=torch.bfloat16)
    modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=16, target_modules=modules, bias="none"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    tokens = torch.randint(VOCAB_SIZE, (ACCUMULATE, BATCH, CONTEXT + 1))

    def loss(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())

    compute = torch.compile(loss, dynamic=False) if compiled else loss

    def step() -> None:
        for batch in tokens:
            (compute(batch) / ACCUMULATE).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    main()
