"""Canaries: random sentences, planted a known number of times, that show whether a model gives away what it has read.

Worth knowing:

- A canary is a fixed beginning and a secret of random words (Carlini et al. 2019, "The Secret Sharer"). It is planted
  in text files among ordinary words, at most once in a file. How often it stands in the train split is counted in the
  documents: some files are held out, and filters may reject or change others.
- Exposure is log2 of the number of possible secrets over the rank that the model gives the planted one by its
  likelihood. The rank is estimated among `N_OTHERS` secrets that were never planted, so exposure ends at
  log2(N_OTHERS + 1), 10 bits; a secret that the model has not seen has 1.4 on average.
- A canary is completed if the likeliest continuation of its beginning and the first half of its secret is the second
  half.
"""

from __future__ import annotations

import math
import random
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from llm.data.documents import read_documents
from llm.errors import UserError
from llm.files import replace_folder
from llm.inference.engine import Engine

FOLDER_NAME = "canaries"
N_OTHERS = 1023
MAX_EXPOSURE = math.log2(N_OTHERS + 1)
BEGINNING = "The canary says:"
_N_WORDS = 8
_PATTERN = re.compile(rf"{BEGINNING}((?:\s[a-z]{{6}}){{{_N_WORDS}}})\.")
_COMMON_WORDS = re.findall(
    "[a-z]+",
    """
about above after again all also although always among another any are around because been before being below between
both but came city could country day did does down each earth even every eye far father few find first food found from
give good great hand have head here high home house idea into just keep kind land large last later leave left letter
life light line little long made make many might more most mother mountain move much must name near never next night
number often old one only open other our over own page paper part people picture place plant point read right river
room said same school second seem several should show side since small some sound still story study such take than
that their them then there these they thing think those thought three through time together took tree under until very
walk want was water way well went were what when where which while white who why will with without word work world
would write year young
    """,
)
_FILLER_WORDS = 30  # before and after each canary


def plant(folder: Path, n_canaries: int, times: Sequence[int], seed: int) -> dict[str, int]:
    """Write text files with canaries to a folder named `canaries` in `folder`; returns how often each is in them.

    Args:
        n_canaries: how many are planted of each number of times.

    Raises:
        UserError: the folder is not there, or has canaries already.
    """
    target = folder / FOLDER_NAME
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; name the one that ingest reads")
    if target.exists():
        raise UserError(f"{target}: is there already; delete it to plant others")
    rng = random.Random(seed)
    planted = {secret: n for n in times for secret in random_secrets(n_canaries, rng)}
    with replace_folder(target) as temporary:
        for number in range(max(planted.values(), default=0)):
            secrets = [secret for secret, n in planted.items() if n > number]
            rng.shuffle(secrets)
            parts = [_filler(rng)]
            for secret in secrets:
                parts += [f"{BEGINNING} {secret}.", _filler(rng)]
            (temporary / f"{number:05d}.txt").write_text(" ".join(parts) + "\n", encoding="utf-8")
    return planted


def random_secrets(n: int, rng: random.Random) -> list[str]:
    """Secrets of eight words, each of three random syllables."""

    def word() -> str:
        return "".join(rng.choice("bdfghjklmnprstvz") + rng.choice("aeiou") for _ in range(3))

    return [" ".join(word() for _ in range(_N_WORDS)) for _ in range(n)]


def _filler(rng: random.Random) -> str:
    """A sentence of common words, never the same, so that files are no copies of each other."""
    return " ".join(rng.choice(_COMMON_WORDS) for _ in range(_FILLER_WORDS)).capitalize() + "."


def find_canaries(documents: Path) -> dict[str, int]:
    """The secrets of the canaries in the train split, and how often each is there."""
    found = Counter[str]()
    for document in read_documents(documents, "train"):
        if BEGINNING in document.text:
            found.update(" ".join(secret.split()) for secret in _PATTERN.findall(document.text))
    return dict(found)


@dataclass(frozen=True)
class Exposure:
    """How well a model knows a canary."""

    secret: str
    count: int  # in the train split
    bits: float
    is_completed: bool


def measure(engine: Engine, canaries: dict[str, int], seed: int = 0) -> list[Exposure]:
    """The exposure of each canary, in their order."""
    if not canaries:
        return []
    others = random_secrets(N_OTHERS, random.Random(seed))
    nats = _sentence_nats(engine, [*canaries, *others])
    of_others = sorted(nats[len(canaries) :])
    completed = _are_completed(engine, list(canaries))
    exposures = []
    for (secret, count), own, is_completed in zip(canaries.items(), nats, completed, strict=False):
        rank = 1 + bisect_left(of_others, own)
        exposures.append(Exposure(secret, count, MAX_EXPOSURE - math.log2(rank), is_completed))
    return exposures


def summary(exposures: Iterable[Exposure]) -> dict[str, dict[str, float]]:
    """Canaries, their mean exposure and the share completed, by how often they are in train: 1, 2 to 4, 5 to 16, ..."""
    groups: dict[int, list[Exposure]] = {}
    for one in exposures:
        groups.setdefault(math.ceil(math.log(one.count, 4) - 1e-9), []).append(one)
    return {
        f"up_to_{4**power}": {
            "n_canaries": len(group),
            "mean_exposure": round(sum(one.bits for one in group) / len(group), 2),
            "completed": round(sum(one.is_completed for one in group) / len(group), 4),
        }
        for power, group in sorted(groups.items())
    }


@torch.inference_mode()
def _sentence_nats(engine: Engine, secrets: Sequence[str], batch_size: int = 16) -> list[float]:
    """What the sentences with these secrets cost the model."""
    rows = [engine.encode(f"{BEGINNING} {secret}.")[: engine.context_length] for secret in secrets]
    nats: list[float] = []
    for start in range(0, len(rows), batch_size):
        batch = [torch.tensor(row) for row in rows[start : start + batch_size]]
        tokens = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=-100)  # (B, T)
        tokens = tokens.to(engine.model.embedding.weight.device)
        logits = engine.model(tokens[:, :-1].clamp(min=0)).float()  # (B, T - 1, V)
        nats += F.cross_entropy(logits.mT, tokens[:, 1:], reduction="none").sum(dim=1).tolist()
    return nats


def _are_completed(engine: Engine, secrets: Sequence[str]) -> list[bool]:
    halves = [secret.split() for secret in secrets]
    prompts = [f"{BEGINNING} {' '.join(words[: _N_WORDS // 2])}" for words in halves]
    rests = [f" {' '.join(words[_N_WORDS // 2 :])}." for words in halves]
    generations = engine.generate(prompts, max(len(rest) for rest in rests), stop=["."])
    return [f"{one.text}." == rest for one, rest in zip(generations, rests, strict=True)]
