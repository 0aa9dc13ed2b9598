"""The gain of speculative decoding: the same texts without guesses, with look-up, and with a draft model.

Look-up is in the text so far, and also in the training documents' index.

The ways take turns. Prompts are the beginnings of held-out documents. Time is that of whole generations, prefill
included; the gain is the median over texts of the time without guesses over the time with them.

    python -m benchmarks.speculation --draft-model models/small --output reports/benchmarks/speculation.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from llm.config import Precision
from llm.data.documents import read_documents
from llm.files import write_json
from llm.index.train_index import TrainIndex
from llm.inference.engine import Engine
from llm.inference.sampling import SampledSequence, Sampling
from llm.inference.speculative import Acceptance, Drafter, DraftModel, IndexLookup, PromptLookup
from stages import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/final"), help="a model folder")
    parser.add_argument("--draft-model", type=Path, default=None, help="a smaller model with the same tokenizer")
    parser.add_argument("--documents", type=Path, default=Path("data/documents"))
    parser.add_argument("--index", type=Path, default=Path("data/index"), help="of the training documents")
    parser.add_argument("--tokens", type=Path, default=Path("data/tokens"), help="that the index was made from")
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--temperatures", type=float, nargs="*", default=[0.0, 0.8])
    parser.add_argument("--draft-tokens", type=int, default=4, help="guesses of the draft model at a time")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=None, help="write the figures as JSON")
    options = parser.parse_args()

    precision: Precision = options.precision
    engine = Engine.load(options.model, "cpu", precision)
    index = TrainIndex(options.index, options.tokens, engine.tokenizer)
    drafters: dict[str, Drafter | None] = {
        "no guesses": None,
        "look-up": PromptLookup(),
        "index look-up": IndexLookup(index),
    }
    if options.draft_model:
        small = Engine.load(options.draft_model, "cpu", precision)
        drafters["draft model"] = DraftModel(small.runner, small.tokenizer, options.draft_tokens)
    documents = (engine.encode(document.text) for document in read_documents(options.documents, "test"))
    prompts = [tokens[: options.prompt_tokens] for tokens in documents if len(tokens) >= options.prompt_tokens]
    report: dict[str, Any] = {"extra_token_cost": round(engine.runner.extra_token_cost(1, 8), 3), "rows": []}
    for temperature in options.temperatures:
        seconds: dict[str, list[list[float]]] = {name: [] for name in drafters}
        acceptances = {name: Acceptance() for name in drafters}
        for i, prompt in enumerate(prompts[: options.texts]):
            times: dict[str, list[float]] = {name: [] for name in drafters}
            for _ in range(options.rounds):
                for name, drafter in drafters.items():
                    if drafter:
                        drafter.acceptance = acceptances[name]
                    sequence = SampledSequence(list(prompt), Sampling(temperature, seed=i))
                    start = time.perf_counter()
                    for _ in engine.run_static_batch([sequence], [len(prompt) + options.new_tokens], drafter=drafter):
                        pass
                    times[name].append(time.perf_counter() - start)
            for name in drafters:
                seconds[name].append(times[name])
        plain = [min(times) for times in seconds["no guesses"]]
        for name, acceptance in acceptances.items():
            best = [min(times) for times in seconds[name]]
            row = {
                "temperature": temperature,
                "guesses": name,
                "gain": round(statistics.median(a / b for a, b in zip(plain, best, strict=True)), 3),
                "acceptance": round(acceptance.rate, 3),
                "tokens_per_checked_step": round(acceptance.tokens_per_step, 2),
                "guessed_per_text": round(acceptance.n_drafted / len(plain) / options.rounds, 1),
            }
            print(json.dumps(row))
            report["rows"].append(row)
    print(json.dumps({"extra_token_cost": report["extra_token_cost"]}))
    if options.output:
        write_json(options.output, report)


if __name__ == "__main__":
    run(main)
