"""Auto values: the number that `model.depth` gives each key that params.yaml leaves at ``auto``.

Worth knowing:

- A key set by hand stays as it is, and what depends on it follows: with `model.d_model` set, `d_ff` is what that width
  asks for.
- Shape: the width is 64 per layer, so that width and depth grow together (nanochat's choice) and parameters with the
  cube of the depth. Heads are 128 wide where that divides the width: for the same matrix products they need half the
  softmax of heads of 64. If neither 128 nor 64 divides the width, the next larger even head width that does is used.
- Steps: `train.tokens_per_parameter` times the weights of the blocks' matrices, over the tokens of a step.
- Tokens per step grow with the tokens of the run to the power 0.383, as the batch that reaches the lowest loss in a
  given number of tokens does (Bergsma et al. 2025, "Power Lines"), to the nearest power of two.
- With `train.init_from` every auto of the model's shape is what that model has, and AdamW's learning rate is one of
  fine-tuning. Muon's then has to be set by hand.
- Learning rates are otherwise those of training from scratch. Muon
  changes a layer's output by the same amount at any width (llm.training.optimizer), so its rate stays. AdamW's falls
  with the square root of the width for embeddings and head, and with the width where it trains the hidden matrices too
  (Yang et al. 2022, "Tensor Programs V"). All are anchored at depth 4, where they were tuned (docs/recipe.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from llm.config.sections import ModelParams

AUTO = "auto"
# What does not depend on `depth`.
SCRATCH = ModelParams.OFF_VALUES | {
    "d_head": None,
    "rope_theta": 10_000.0,
    "norm_eps": 1e-6,
    "qk_norm": True,
    "tied_embeddings": False,
}
MAX_DEPTH = 1024  # deeper and wider than any model there is

_BASE_WIDTH = 256  # of depth 4, where the learning rates and the batch were tuned
_BASE_STEP_TOKENS = 4096
FINE_TUNING_LR, LORA_LR = 5.0e-5, 5.0e-4  # of all weights; of adapters
ELEMENTWISE_LR = {"adamw": 0.002}  # at the base width, by optimizer that trains every weight
_BASE_RUN_TOKENS = 2.36e6  # 0.8 per weight of the blocks' matrices


def resolve_autos(
    model: Mapping[str, Any], train: Mapping[str, Any], pretrained: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections `model` and `train` with a value for every ``auto``, and without `depth`.

    Args:
        model, train: the sections.
        pretrained: the `model` section of the model that `train.init_from` names.

    Raises:
        ValueError: `depth` is not a whole number from 1 to MAX_DEPTH, or Muon's learning rate is ``auto`` where
            `train.init_from` names a model.
    """
    model, train = dict(model), dict(train)
    for key, value in {**SCRATCH, **(pretrained or {})}.items():
        if model.get(key) == AUTO and (pretrained or key in SCRATCH):
            model[key] = value
    depth = model.pop("depth")
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
        raise ValueError(f"model.depth must be a whole number of 1 or more, but is {depth!r}")
    if depth > MAX_DEPTH:
        raise ValueError(f"model.depth must be at most {MAX_DEPTH}, but is {depth}")

    if train.get("init_from") and train.get("optimizer") == "muon" and AUTO in (train.get("lr"), train.get("muon_lr")):
        key = "lr" if train.get("lr") == AUTO else "muon_lr"
        raise ValueError(
            f"train.{key} must be a number where train.init_from names a model: auto is for training from scratch, and "
            "would undo what the model has learned; or set train.optimizer to adamw, whose auto is for fine-tuning"
        )

    def fill(section: dict[str, Any], key: str, value: Callable[[], float]) -> None:
        if section.get(key) == AUTO:
            try:
                section[key] = value()
            except (TypeError, KeyError, ValueError, ZeroDivisionError):
                section[key] = 10**6  # what it depends on is unusable, and the checks that follow will say just that

    fill(model, "n_layers", lambda: depth)
    fill(model, "d_model", lambda: 64 * depth)
    fill(model, "n_heads", lambda: _n_heads(model["d_model"], model["d_head"]))
    fill(model, "n_kv_heads", lambda: _largest_proper_divisor(model["n_heads"]))
    fill(model, "d_ff", lambda: 64 * math.ceil(model["d_model"] * 8 / 3 / 64))  # three matrices as large as two of 4 d

    def run_tokens() -> float:
        return float(train["tokens_per_parameter"] * block_weights(model))

    def batch_size() -> int:
        step_tokens = _BASE_STEP_TOKENS * (run_tokens() / _BASE_RUN_TOKENS) ** 0.383
        sequences = 2 ** round(math.log2(step_tokens)) / (model["context_length"] * train["grad_accum_steps"])
        return max(1, round(sequences))

    def max_steps() -> int:
        step_tokens = train["batch_size"] * train["grad_accum_steps"] * model["context_length"]
        return 50 * math.ceil(run_tokens() / step_tokens / 50)

    def lr() -> float:
        if train.get("init_from"):
            return LORA_LR if train.get("lora_rank") else FINE_TUNING_LR
        width = _BASE_WIDTH / model["d_model"]
        if train["optimizer"] == "muon":  # AdamW's rate, for all but the hidden matrices
            return 0.02 * math.sqrt(width)
        return ELEMENTWISE_LR[train["optimizer"]] * width

    fill(train, "batch_size", batch_size)
    fill(train, "max_steps", max_steps)
    fill(train, "lr", lambda: _rounded(lr()))
    same_lr = train.get("init_from") or train.get("optimizer") != "muon"
    fill(train, "head_lr", lambda: train["lr"] if same_lr else _rounded(train["lr"] / 5))
    fill(train, "muon_lr", lambda: 0.01)
    return model, train


def block_weights(model: Mapping[str, Any]) -> int:
    """Weights of the matrices inside the blocks: all but embeddings, head and norms."""
    d_model, d_ff = model["d_model"], model["d_ff"]
    head_dim = model["d_head"] or d_model // model["n_heads"]
    attention = 2 * d_model * head_dim * (model["n_heads"] + model["n_kv_heads"])
    return int(model["n_layers"] * (attention + 3 * d_model * d_ff))


def _n_heads(width: int, head_dim: int | None) -> int:
    """As many heads as fit. Without a given `head_dim` they divide the width into even parts (rotary positions)."""
    most = max(1, width // (head_dim or (128 if width % 128 == 0 else 64)))
    if head_dim:
        return most
    return next((n for n in range(most, 0, -1) if width % (2 * n) == 0), 1)


def _largest_proper_divisor(n: int) -> int:
    return next((n // i for i in range(2, n + 1) if n % i == 0), 1)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
