"""Write one HTML page on which to explore what a model has learned."""

from __future__ import annotations

import argparse
from pathlib import Path

from llm.commands.options import Commands, without_surrogates
from llm.errors import UserError

_TEXTS = (
    "def read_lines(path):\n    with open(path) as file:\n        return file.readlines()",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
    "to be or not to be, that is the question",
    "The function returns a list of the names of the files in the directory",
)
_MAX_TOKENS = 64  # of a text: more would not fit on a screen


def add(commands: Commands) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "explore",
        help="embeddings, attention and layers of a model, as a page for the browser",
        description="Write one HTML page on which to explore what a model has learned: a map of its token embeddings, "
        "neighbors, word arithmetic, attention and the predictions of each layer. It needs no network.",
    )
    parser.add_argument("--model", default="models/final", help="model folder")
    parser.add_argument("--tokenizer", default="models/tokenizer", help="folder with the counts of tokens")
    parser.add_argument("--tokens", default="data/tokens", help="the tokens that the model was trained on")
    parser.add_argument("--text", action="append", help="a text to record attention and layers for; may be repeated")
    parser.add_argument("--vocabulary", type=int, default=4096, help="most frequent tokens to show")
    parser.add_argument("--tsne", action="store_true", help="a t-SNE map as well (needs the extra `explore`)")
    parser.add_argument("--checkpoints", help="folder of step-* checkpoints, to show how the space formed")
    parser.add_argument("--output", default="reports/explore.html", help="the page to write")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    import torch

    from llm.explore.page import write_page
    from llm.explore.recording import record
    from llm.explore.space import embedding_space
    from llm.model_folder import load_model_folder
    from llm.tokenizer import end_of_text_id

    if options.vocabulary < 2:
        raise UserError(f"--vocabulary must be 2 or more, but is {options.vocabulary}")
    model, tokenizer, config = load_model_folder(Path(options.model), torch.device("cpu"))
    space = embedding_space(
        model.embedding.weight.detach().double().numpy(),
        tokenizer,
        Path(options.tokenizer),
        Path(options.tokens),
        options.vocabulary,
        tsne=options.tsne,
        checkpoints=Path(options.checkpoints) if options.checkpoints else None,
    )
    longest = min(_MAX_TOKENS, model.params.context_length)
    recordings = []
    for text in options.text or _TEXTS:
        ids = tokenizer.encode(without_surrogates(text), add_special_tokens=False).ids
        if not ids:
            raise UserError("--text must not be empty")
        if len(ids) >= longest:
            print(f"note: a text has {len(ids)} tokens; only the first {longest - 1} are recorded")
        recordings.append(record(model, [end_of_text_id(tokenizer), *ids][:longest]))
    path = Path(options.output)
    write_page(path, model, tokenizer, space, recordings, config["provenance"].get("step"))
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, open it in a browser: {path.resolve().as_uri()}")
