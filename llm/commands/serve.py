"""Serve a model over HTTP: OpenAI's interface for programs, and a page for people."""

from __future__ import annotations

import argparse
from pathlib import Path

from llm.commands.options import Commands, add_index_options, add_loading_options
from llm.errors import UserError


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "serve",
        help="answer programs and browsers over HTTP",
        description="Serve a model over HTTP, as OpenAI's interface and as a page for people (pip install "
        "'folder-to-llm[serve]'). See docs/serving.md.",
    )
    add_loading_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; all but loopback need a key")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--api-key-file", type=Path, help="a file with the key that clients must send")
    parser.add_argument("--name", help="what clients call the model; by default its folder's name")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-batch-size", type=int, default=32, help="most sequences that are computed together")
    limits.add_argument(
        "--cache-tokens", type=int, help="tokens that the key-value cache has room for; by default eight contexts"
    )
    limits.add_argument("--max-open", type=int, default=256, help="most sequences that run or wait; more get a 429")
    limits.add_argument("--max-tokens", type=int, default=4096, help="most tokens of a continuation")
    limits.add_argument("--max-body-bytes", type=int, default=2**20, help="most bytes of a request's body")
    limits.add_argument("--timeout", type=float, default=600.0, help="most seconds of a request")
    pipeline = parser.add_argument_group("search and tracing")
    pipeline.add_argument("--documents", type=Path, default=Path("data/documents"), help="what the ingest stage wrote")
    pipeline.add_argument(
        "--passages", type=Path, default=Path("data/passages"), help="what the index stage wrote, for search"
    )
    add_index_options(pipeline)
    pipeline.add_argument("--tokenizer", type=Path, default=Path("models/tokenizer"), help="the tokenizer of these")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    try:
        import uvicorn  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("serving needs packages that are not installed: pip install 'folder-to-llm[serve]'") from None
    from llm.chat_template import ChatTemplate
    from llm.inference.engine import Engine
    from llm.inference.paged_cache import BLOCK_SIZE
    from llm.model_folder import load_config
    from llm.serve.app import create_app
    from llm.serve.server import serve
    from llm.serve.settings import Settings, read_api_key

    folder = Path(options.model)
    settings = Settings(
        model_name=options.name or folder.resolve().name,
        host=options.host,
        port=options.port,
        api_key=read_api_key(options.api_key_file) if options.api_key_file else None,
        max_open=options.max_open,
        max_tokens=options.max_tokens,
        max_body_bytes=options.max_body_bytes,
        timeout_s=options.timeout,
        documents=options.documents,
        passages=options.passages,
        index=Path(options.index),
        tokens=Path(options.tokens),
        tokenizer=options.tokenizer,
    )
    context = load_config(folder)["model"]["context_length"]
    one_context = -(-context // BLOCK_SIZE) * BLOCK_SIZE
    cache_tokens = 8 * one_context if options.cache_tokens is None else options.cache_tokens
    if cache_tokens < one_context:
        raise UserError(f"--cache-tokens must be {one_context} or more, for a whole context, but is {cache_tokens}")
    if options.max_batch_size < 1:
        raise UserError(f"--max-batch-size must be 1 or more, but is {options.max_batch_size}")
    engine = Engine.load(
        folder,
        options.device,
        options.precision,
        quantize=options.quantize,
        compile=not options.no_compile,
        max_batch_size=options.max_batch_size,
        cache_tokens=cache_tokens,
    )
    serve(create_app(engine, settings, ChatTemplate.from_folder(folder)), settings)
