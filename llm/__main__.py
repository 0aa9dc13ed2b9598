"""The command line: ``python -m llm generate``, ``info``, ``export``, ``import``, ``source``, ``params``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from llm.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Mistakes a user can mend are one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (UserError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m llm", description="Use and inspect what the pipeline makes.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    formatter = argparse.ArgumentDefaultsHelpFormatter

    generate = commands.add_parser(
        "generate",
        help="continue a text",
        description="Continue a text with the trained model. The prompt is read from stdin when --prompt is not given.",
        formatter_class=formatter,
    )
    generate.add_argument("--prompt", help="the text to continue; without it, stdin", default=None)
    generate.add_argument("--max-tokens", type=int, default=200, help="most tokens to generate")
    generate.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest token")
    generate.add_argument("--top-k", type=int, default=0, help="sample from the k likeliest tokens only; 0: off")
    generate.add_argument("--top-p", type=float, default=0.95, help="sample from the likeliest tokens of total mass p")
    generate.add_argument("--seed", type=int, default=0, help="same seed, same text")
    generate.add_argument("--stop", action="append", default=[], help="end before this text; may be repeated")
    generate.add_argument("--no-cache", action="store_true", help="compute every token again at each step (slow)")
    generate.add_argument("--no-echo", action="store_true", help="print the continuation without the prompt")
    _add_model_options(generate)
    generate.set_defaults(run=_generate)

    info = commands.add_parser(
        "info",
        help="size, memory and origin of a model",
        description="Show a model's shape, size, memory needs and where it comes from.",
        formatter_class=formatter,
    )
    info.add_argument("--model", default="models/final", help="model folder")
    info.add_argument("--json", action="store_true", help="machine-readable")
    info.set_defaults(run=_info)

    export = commands.add_parser(
        "export",
        help="write a model for transformers, llama.cpp and others",
        description="Write a Hugging Face folder with a model card, and GGUF files if asked for.",
        formatter_class=formatter,
    )
    export.add_argument("--model", default="models/final", help="model folder")
    export.add_argument("--output", required=True, help="the folder to make; it must not exist")
    export.add_argument("--gguf", nargs="*", default=[], choices=["f32", "bf16", "q8_0"], help="GGUF files to add")
    export.add_argument("--shard-mib", type=float, default=4096, help="weights of more than this go into several files")
    export.add_argument("--reports", default="reports", help="what the model card's figures are taken from")
    export.set_defaults(run=_export)

    import_ = commands.add_parser(
        "import",
        help="make a model folder from a published model",
        description="Make a model folder from a Hugging Face folder of a Llama or Qwen3, in safetensors files.",
        formatter_class=formatter,
    )
    import_.add_argument("--source", required=True, help="the Hugging Face folder")
    import_.add_argument("--output", required=True, help="the folder to make; it must not exist")
    import_.set_defaults(run=_import)

    source = commands.add_parser(
        "source",
        help="prepare the source folder for DVC",
        description="Look through ingest.source for entries that DVC cannot hash (broken links, pipes, files that may "
        "not be read) and list them in .dvcignore, so that they do not stop `dvc repro`. Ingest still lists them.",
        formatter_class=formatter,
    )
    source.add_argument("--file", default="params.yaml", help="where ingest.source is read from")
    source.set_defaults(run=_source)

    params = commands.add_parser(
        "params",
        help="check and show params.yaml",
        description="Check params.yaml and show its values; the exit code is 1 if something is wrong with it.",
        formatter_class=formatter,
    )
    params.add_argument("--file", default="params.yaml", help="the file to check")
    params.add_argument("--json", action="store_true", help="machine-readable")
    params.set_defaults(run=_params)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="models/final", help="model folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp16", "fp32"], help="of the weights")


def _generate(options: argparse.Namespace) -> None:
    from llm.inference.engine import Engine
    from llm.inference.sampling import Sampling

    try:
        sampling = Sampling(options.temperature, options.top_k, options.top_p, options.seed)
    except ValueError as error:
        raise UserError(f"--{str(error).replace('_', '-')}") from None
    if options.max_tokens < 1:
        raise UserError(f"--max-tokens must be 1 or more, but is {options.max_tokens}")
    if options.prompt is None and sys.stdin.isatty():
        print("type the text to continue, then Ctrl-D:", file=sys.stderr)
    prompt = sys.stdin.read() if options.prompt is None else options.prompt
    engine = Engine.load(options.model, options.device, options.precision)
    prompt = _fitting(prompt, engine, options.max_tokens)
    out = sys.stdout
    if not options.no_echo:
        out.write(prompt)
        out.flush()
    for piece in engine.stream(prompt, options.max_tokens, sampling, options.stop, not options.no_cache):
        out.write(piece)
        out.flush()
    out.write("\n")


def _fitting(prompt: str, engine: Any, max_tokens: int) -> str:
    """The prompt, or its end if it is too long for the context, which is said."""
    n_tokens = len(engine.encode(prompt))
    room = max(engine.context_length // 2, engine.context_length - max_tokens)
    if n_tokens <= room:
        return prompt
    kept = engine.tokenizer.decode(engine.encode(prompt)[-(room - 1) :], skip_special_tokens=False)
    print(
        f"note: the prompt has {n_tokens} tokens and the model sees {engine.context_length}; "
        f"only the last {room - 1} tokens of it are used",
        file=sys.stderr,
    )
    return kept.lstrip("\ufffd")


def _info(options: argparse.Namespace) -> None:
    import torch

    from llm.config import ModelParams
    from llm.model import Transformer
    from llm.model_folder import WEIGHTS_NAME, load_config

    folder = Path(options.model)
    config = load_config(folder)
    shape = ModelParams(**config["model"])
    with torch.device("meta"):  # shapes without memory
        model = Transformer(shape, config["vocab_size"])
    n = model.n_parameters()
    cache = 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim
    path = folder / WEIGHTS_NAME
    facts = {
        "folder": str(folder),
        "architecture": "Qwen3" if shape.qk_norm else "Llama",
        "parameters": n,
        "of_which_embeddings": model.embedding.weight.numel() * (1 if shape.tied_embeddings else 2),
        "flops_per_token": model.flops_per_token(),
        "weights_file_bytes": path.stat().st_size if path.is_file() else None,
        "memory_bytes": {"fp32": 4 * n, "bf16": 2 * n},
        "cache_bytes_per_token": {"fp32": 4 * cache, "bf16": 2 * cache},
        "cache_bytes_full_context": {
            "fp32": 4 * cache * shape.context_length,
            "bf16": 2 * cache * shape.context_length,
        },
        "vocab_size": config["vocab_size"],
        "shape": config["model"],
        "provenance": config["provenance"],
    }
    if options.json:
        print(json.dumps(facts, indent=2))
        return
    _print_tree(facts)


def _export(options: argparse.Namespace) -> None:
    from llm.config import ExportParams
    from llm.interchange.export import export

    output = _new_folder(options.output)
    try:
        params = ExportParams(options.shard_mib, options.gguf)
    except ValueError as error:
        raise UserError(f"--{str(error).replace('_', '-')}") from None
    for file in export(Path(options.model), output, params, Path(options.reports), output.name):
        print(file)


def _import(options: argparse.Namespace) -> None:
    from llm.interchange.importing import import_folder

    source = import_folder(Path(options.source), _new_folder(options.output))
    print(f"{options.output}: {source.vocab_size} tokens; for train.init_from, params.yaml needs")
    print("model:")
    for key, value in asdict(source.params).items():
        print(f"  {key}: {'' if value is None else json.dumps(value)}".rstrip())


def _new_folder(path: str) -> Path:
    """A folder that does not exist yet, or is empty: what is there is never overwritten."""
    folder = Path(path).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output {path}: exists already; delete it or name another folder")
    return folder


def _source(options: argparse.Namespace) -> None:
    from llm.config import load_params
    from llm.data.dvcignore import update_dvcignore

    source = Path(load_params(options.file).ingest.source)
    if not source.exists() and source == Path("data/sample"):
        print(f"{source} does not exist yet: the sample stage makes it")
        return
    entries = update_dvcignore(source, Path())
    print(f"{source}: {len(entries)} entries that DVC cannot hash" + (", listed in .dvcignore:" if entries else ""))
    for entry in entries:
        print(f"  {entry}")


def _params(options: argparse.Namespace) -> None:
    from llm.config import as_dict, load_params

    params = load_params(options.file)
    if options.json:
        print(json.dumps(as_dict(params), indent=2))
        return
    for section in fields(params):
        print(f"{section.name}:")
        for key, value in asdict(getattr(params, section.name)).items():
            print(f"  {key:26s} {value}")
    print(f"{options.file} is valid")


def _print_tree(value: dict[str, Any], indent: int = 0) -> None:
    for key, item in value.items():
        if isinstance(item, dict):
            print(f"{' ' * indent}{key}:")
            _print_tree(item, indent + 2)
        else:
            shown = f"{item:,}" if isinstance(item, int) and not isinstance(item, bool) else item
            print(f"{' ' * indent}{key:{28 - indent}s} {shown}")


if __name__ == "__main__":
    sys.exit(main())
