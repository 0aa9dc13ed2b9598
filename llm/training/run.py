"""The core of a training run: model, optimizer and data, one step, one evaluation.

Worth knowing:

- Everything in this file decides the numbers of a run; showing, logging, saving and stopping are in
  llm.training.trainer. An edit here starts interrupted runs afresh (llm.training.fingerprint).
- An optimizer step sees grad_accum_steps micro-batches. Its loss is the sum over all their tokens divided by their
  number, so that accumulating gives the gradient of one large batch, whatever the micro-batches hold.
- A step's batch and learning rate depend on its number alone, so weights, optimizer state, random state and the step's
  number are all that a checkpoint needs (`Run.state`, `Progress`).
- The same lines run in every process of a run (llm.training.distributed). All make the same decisions,
  because what these depend on is summed over all processes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llm.attention import blocked_attention
from llm.config import ModelParams, TrainParams
from llm.data.token_shards import TokenStream
from llm.errors import UserError
from llm.interchange.importing import copy_weights, open_pretrained
from llm.model import Transformer
from llm.model_folder import WEIGHTS_NAME
from llm.precision import grad_scaler, resolve_precision, resolve_residual
from llm.tokenizer import load_tokenizer, token_bytes, tokenizer_sha256
from llm.training.batches import Batches
from llm.training.compilation import resolve_compile
from llm.training.distributed import World, local_shard, parallelize, reshard, synchronized
from llm.training.gradients import clip_gradients, gradient_norms
from llm.training.held_out import HeldOut
from llm.training.lora import add_adapters, freeze_in_bf16, trained_weights
from llm.training.loss import require_liger, resolve_loss
from llm.training.objective import Objective
from llm.training.optimizer import Optimizers
from llm.training.schedule import momentum, schedule

# A step is sound if its gradient is finite and its loss at most so far above the lowest mean of recent losses: batches
# do not differ by as much, a run that diverges does.
_SOUND_NATS = 2.0
# A run that diverges does so before that shows in the loss, and a single step may be chance.
DIVERGING_STEPS = 10


class TrainingError(UserError):
    """The run cannot go on; the message says what to try."""


@dataclass
class Progress:
    """What changes as the run goes on, besides weights and optimizer."""

    step: int = 0
    tokens: int = 0
    best_bpb: float = math.inf
    best_step: int = 0
    bad_steps: int = 0
    skipped_steps: int = 0
    seconds: float = 0.0
    mean_loss: float = math.inf  # of the last ten or so sound steps
    lowest_loss: float = math.inf  # of those means
    sound_step: int = 0  # the last sound step


class Run:
    """Model, optimizer and data of one training run, and its steps.

    Args:
        model_params, params: the ``model`` and ``train`` sections.
        tokens_folder, tokenizer_folder: what the tokenize stage wrote.
        world: the processes that share the work.

    Raises:
        UserError: the tokenizer is not the one that the tokens were written with.
        ParamsError: the params do not fit the data or the machine.
    """

    def __init__(
        self, model_params: ModelParams, params: TrainParams, tokens_folder: Path, tokenizer_folder: Path, world: World
    ):
        self.params, self.model_params = params, model_params
        self.world, self.device = world, world.device
        self.dtype = resolve_precision(params.precision, self.device)
        self.is_compiled = resolve_compile(params, self.device)
        tokenizer = load_tokenizer(tokenizer_folder)
        self.tokenizer, self.vocab_size = tokenizer, tokenizer.get_vocab_size()
        train_stream = TokenStream(tokens_folder, "train")
        if tokenizer_sha256(tokenizer) != train_stream.meta["tokenizer_sha256"]:
            raise UserError(
                f"{tokenizer_folder}: is not the tokenizer that {tokens_folder} was written with; "
                "run `dvc repro tokenize` to write both again"
            )
        context = model_params.context_length
        self.batches = Batches(
            train_stream, params.batch_size, context, params.seed, world, params.packing, params.document_attention
        )
        val_stream = TokenStream(tokens_folder, "val")
        for stream in (train_stream, val_stream):
            _verify(stream, world)
        self.val = HeldOut(val_stream, token_bytes(tokenizer), params, context, world)

        torch.manual_seed(params.seed)
        self.model = Transformer(model_params, self.vocab_size)
        self.model.init_weights()
        if params.init_from:
            copy_weights(open_pretrained(Path(params.init_from)), self.model, tokenizer)
        self.model.extend_rope(context)
        self.n_parameters = self.model.n_parameters()
        if params.lora_rank:
            add_adapters(self.model, params)
            if self.dtype == torch.bfloat16 and params.parallel != "fsdp":  # whose shards are of one dtype
                freeze_in_bf16(self.model)
        loss = resolve_loss(params, self.vocab_size, self.device)
        if loss == "liger":
            require_liger(self.device)
        residual = resolve_residual(params, self.dtype, self.device)
        self.objective = Objective(self.model, self.dtype, residual, loss)
        if params.activation_checkpointing:
            self.objective.checkpoint_activations()
        if self.is_compiled and self.device.type == "cpu":
            self.model.use_attention(blocked_attention)
        if self.is_compiled and world.size > 1:
            self.objective.compile_parts()
        self.parallelized = parallelize(self.objective, params, world)
        self.loss: Callable[..., Tensor] = self.parallelized
        if self.is_compiled and world.size == 1:
            self.loss = torch.compile(self.parallelized, dynamic=False)
        self.optimizers = Optimizers(self.model, params)
        self.scaler = grad_scaler(self.device, self.dtype)
        self.progress = Progress()
        weights = trained_weights(self.model)
        self.best_weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self.upcoming: tuple[int, list[tuple[Tensor, ...]]] = (-1, [])
        self.tokens_per_micro_batch = params.batch_size * context

    def step(self) -> dict[str, float]:
        """One optimizer step over all its micro-batches; returns its metrics.

        Raises:
            TrainingError: too many steps in a row gave a non-finite gradient.
        """
        params, step = self.params, self.progress.step
        factor = schedule(step, params)
        self.optimizers.set_schedule(factor, momentum(step, params))
        micro_batches = self._micro_batches(step)
        # Of this process. All have equally many, and gradients are averaged over processes: in effect, of all of them.
        n_targets = sum(batch[1].numel() for batch in micro_batches)
        total = torch.zeros((), device=self.device)
        for i, batch in enumerate(micro_batches, start=1):
            with synchronized(self.parallelized, i == len(micro_batches)):
                loss = self.loss(*map(self._on_device, batch)) / n_targets
                self.scaler.scale(loss).backward()
            total += loss.detach()
        if step + 1 < params.max_steps:
            # A GPU is still busy with the work queued so far; meanwhile, the next step's tokens are read.
            self.upcoming = (step + 1, self._micro_batches(step + 1))
        self.optimizers.unscale(self.scaler)
        norms = gradient_norms(self.model)
        norm = clip_gradients(self.model, norms, params.grad_clip)
        if math.isfinite(norm):
            self.optimizers.step(self.scaler)
            self.progress.bad_steps = 0
        else:
            self._note_bad_step(norm)
        self.scaler.update()
        self.optimizers.zero_grad()
        mean = self.world.sum(total).item() / self.world.size
        self.progress.step += 1
        self.progress.tokens += len(micro_batches) * self.tokens_per_micro_batch
        self._note_loss(mean, norm)
        values = {"training/loss": mean, "training/lr": params.lr * factor, "training/grad_norm": norm}
        return values | {f"training/grad_norm_{name}": value for name, value in norms.items()}

    def evaluate(self) -> dict[str, float]:
        """Loss and bits per byte on the val split; keeps the weights if they are the best so far."""
        self.model.eval()
        loss, bpb, by_modality = self.val.score(self.objective)
        reshard(self.parallelized)  # a forward pass without a backward pass leaves fsdp's weights gathered
        self.model.train()
        if bpb < self.progress.best_bpb:
            self.progress.best_bpb, self.progress.best_step = bpb, self.progress.step
            for name, tensor in trained_weights(self.model).items():
                self.best_weights[name].copy_(tensor)
        values = {"training/val_loss": loss, "training/val_bpb": bpb}
        return values | {f"training/val_bpb_{name}": value for name, value in by_modality.items()}

    def is_sound(self) -> bool:
        """Whether the last step was sound and left only finite numbers; all processes have to call this.

        Only then is the present state worth a checkpoint: from any other, a resumed run would fail as this one does.
        """
        if self.progress.sound_step < self.progress.step:
            return False
        shards = [local_shard(tensor) for tensor in self.state().values() if tensor.is_floating_point()]
        return not self.world.max(not all(shard.isfinite().all() for shard in shards))

    def has_diverged(self) -> bool:
        """Whether none of the last steps was sound."""
        return self.progress.step - self.progress.sound_step >= DIVERGING_STEPS

    def advice(self) -> str:
        """What to change after a run that did not stay finite; equal parameters give an equal run."""
        params = self.params
        rates = [f"a lower train.lr (now {params.lr:g})"]
        if params.optimizer == "muon":
            rates.append(f"a lower train.muon_lr (now {params.muon_lr:g})")
        changes = [*rates, "a longer train.warmup_steps"]
        if not 0 < params.grad_clip <= 1:
            changes.append("train.grad_clip 1.0")
        if self.dtype != torch.float32:
            changes.append("train.precision fp32")
        return f"the same parameters would fail again in the same way: try {', '.join(changes[:-1])} or {changes[-1]}"

    def state(self) -> dict[str, Tensor]:
        """All that changes from step to step, apart from `Progress` and the loss scale; the tensors themselves."""
        state = {f"model.{name}": tensor for name, tensor in trained_weights(self.model).items()}
        state |= {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        state |= {f"optimizer.{name}": tensor for name, tensor in self.optimizers.state().items()}
        state["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            state["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def chosen_weights(self) -> dict[str, dict[str, Tensor]]:
        """What training changed, by the file to write: the chosen weights as WEIGHTS_NAME, and the others."""
        last = trained_weights(self.model)
        if self.params.final_weights == "best":
            return {WEIGHTS_NAME: self.best_weights, "last.safetensors": last}
        return {WEIGHTS_NAME: last, "best.safetensors": self.best_weights}

    def _micro_batches(self, step: int) -> list[tuple[Tensor, ...]]:
        """A step's batches, on the host."""
        if self.upcoming[0] == step:
            return self.upcoming[1]
        n = self.params.grad_accum_steps
        return [self.batches[i] for i in range(step * n, (step + 1) * n)]

    def _on_device(self, batch: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch

    def _note_loss(self, loss: float, norm: float) -> None:
        progress = self.progress
        if not (math.isfinite(norm) and loss <= progress.lowest_loss + _SOUND_NATS):
            return
        progress.sound_step = progress.step
        is_first = math.isinf(progress.mean_loss)
        progress.mean_loss = loss if is_first else 0.9 * progress.mean_loss + 0.1 * loss
        progress.lowest_loss = min(progress.lowest_loss, progress.mean_loss)

    def _note_bad_step(self, norm: float) -> None:
        self.progress.bad_steps += 1
        self.progress.skipped_steps += 1
        if self.progress.bad_steps >= self.params.max_bad_steps:
            raise TrainingError(
                f"the gradient was not finite ({norm}) in {self.progress.bad_steps} steps in a row, the last one step "
                f"{self.progress.step}; {self.advice()}"
            )


def _verify(stream: TokenStream, world: World) -> None:
    """Check the tokens of a split, each process its share, and fail in all of them if one finds something."""
    problem = ""
    try:
        stream.verify(world.rank, world.size)
    except UserError as error:
        problem = str(error)
    if problems := [found for found in world.gather(problem) if found]:
        raise UserError(problems[0])
