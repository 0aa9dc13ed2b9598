"""The training loop: from token shards to a model folder, in steps that can be interrupted anywhere.

What is worth knowing:

- An optimizer step sees grad_accum_steps micro-batches. Its loss is the sum over all their tokens divided by their
  number, so that accumulating gives the gradient of one large batch, whatever the micro-batches hold.
- A step's batch and learning rate depend on its number alone, so weights, optimizer state and the step's number are all
  that a checkpoint needs; a resumed run equals an uninterrupted one bit for bit on a CPU.
- SIGTERM and Ctrl-C end the current step, save a checkpoint and exit non-zero, so that DVC does not take half a run for
  a whole one.
- The same lines run in every process of a run (llm.training.distributed). All decide alike, because what they decide by
  has been summed over all; the first one prints, logs and writes the model.
"""

from __future__ import annotations

import math
import platform
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from llm.attention import blocked_attention
from llm.config import ModelParams, TrainParams
from llm.data.token_shards import TokenStream
from llm.errors import UserError
from llm.hardware import keep_freed_memory, matmul_flops, synchronize
from llm.interchange.importing import copy_weights, open_pretrained
from llm.model import Transformer
from llm.model_folder import WEIGHTS_NAME, save_model_folder
from llm.precision import grad_scaler, resolve_precision, resolve_residual
from llm.tokenizer import load_tokenizer, token_bytes, tokenizer_sha256
from llm.training.batches import Batches
from llm.training.checkpoint import CheckpointFolder, RunLock, is_locked
from llm.training.distributed import World, join_world, let_go, spread, synchronized
from llm.training.fingerprint import fingerprint, run_identity, why_afresh
from llm.training.gradients import clip_gradients, gradient_norms, sample
from llm.training.held_out import HeldOut
from llm.training.lora import add_adapters, merged_weights, trained_weights
from llm.training.loss import require_liger
from llm.training.metrics import MetricsLog, Sink
from llm.training.objective import Objective
from llm.training.optimizer import Optimizers
from llm.training.schedule import momentum, schedule
from llm.training.signals import stop_requests

_WHAT_TO_TRY = (
    "try a lower train.lr (now {lr}), a longer train.warmup_steps, train.grad_clip 1.0, or train.precision fp32"
)


class Interrupted(SystemExit):
    """The run was asked to stop and saved a checkpoint; the exit code is 128 + the signal's number."""


class TrainingError(UserError):
    """The run cannot go on; the message says what to try."""


@dataclass
class Progress:
    """What changes as the run goes on, besides weights and optimizer."""

    step: int = 0
    best_bpb: float = math.inf
    best_step: int = 0
    bad_steps: int = 0
    skipped_steps: int = 0
    seconds: float = 0.0


def train(
    model_params: ModelParams,
    params: TrainParams,
    tokens_folder: Path,
    tokenizer_folder: Path,
    work: Path,
    output: Path,
    open_sink: Callable[[], Sink] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train a model and write it to `output`; continue an interrupted run if there is one.

    Args:
        model_params, params: the ``model`` and ``train`` sections.
        tokens_folder, tokenizer_folder: what the tokenize stage wrote.
        work: where checkpoints are kept while the run is not complete (.work/train).
        output: the model folder to write.
        open_sink: makes the sink that metrics go to besides the log; called when the run really starts.
        say: prints a line for the user.

    Returns the run's closing figures.

    Raises:
        Interrupted: after SIGTERM or Ctrl-C; a checkpoint is saved.
        TrainingError: too many steps in a row gave a non-finite gradient.
        ParamsError: the params do not fit the data or the machine.
    """
    keep_freed_memory()
    with join_world(params) as world:
        identity = run_identity(model_params, params, tokens_folder, world.device)
        run_folder = work / fingerprint(identity)
        if not world.is_main:
            open_sink, say = None, _say_nothing
        with RunLock(run_folder, world), stop_requests() as stop, _same_bits(world.device):
            run = _Run(model_params, params, tokens_folder, tokenizer_folder, run_folder, identity, world)
            say(run.describe())
            say(run.resume() or why_afresh(work, run_folder, identity))
            summary = run.loop(open_sink() if open_sink else None, stop, say)
            run.write_model(output)
            say(f"best val bpb {summary['best/val_bpb']:.4f} at step {summary['best/step']}; {output} is written")
        world.barrier()
        if world.is_main:
            _forget(work, run_folder)
    return summary


class _Run:
    """One training run: everything it holds, and its steps."""

    def __init__(
        self,
        model_params: ModelParams,
        params: TrainParams,
        tokens_folder: Path,
        tokenizer_folder: Path,
        run_folder: Path,
        identity: dict[str, Any],
        world: World,
    ):
        self.params, self.model_params, self.identity = params, model_params, identity
        self.tokenizer_folder = tokenizer_folder
        self.world, self.device = world, world.device
        self.dtype = resolve_precision(params.precision, self.device)
        tokenizer = load_tokenizer(tokenizer_folder)
        self.tokenizer, self.vocab_size = tokenizer, tokenizer.get_vocab_size()
        if tokenizer_sha256(tokenizer) != identity["tokens"]["tokenizer_sha256"]:
            raise UserError(
                f"{tokenizer_folder}: is not the tokenizer that {tokens_folder} was written with; "
                "run `dvc repro tokenize` to write both again"
            )
        context = model_params.context_length
        train_stream = TokenStream(tokens_folder, "train")
        self.batches = Batches(
            train_stream, params.batch_size, context, params.seed, world, params.packing, params.document_attention
        )
        self.val = HeldOut(TokenStream(tokens_folder, "val"), token_bytes(tokenizer), params, context, world)

        torch.manual_seed(params.seed)
        self.model = Transformer(model_params, self.vocab_size)
        self.model.init_weights()
        if params.init_from:
            copy_weights(open_pretrained(Path(params.init_from)), self.model, tokenizer)
        self.n_parameters = self.model.n_parameters()
        if params.lora_rank:
            add_adapters(self.model, params)
        if params.loss == "liger":
            require_liger(self.device)
        residual = resolve_residual(params, self.dtype, self.device)
        self.objective = Objective(self.model, self.dtype, residual, params.loss)
        if params.activation_checkpointing:
            self.objective.checkpoint_activations()
        if identity["compiled"] and self.device.type == "cpu":
            self.model.use_attention(blocked_attention)
        if identity["compiled"] and world.size > 1:
            self.objective.compile_parts()
        self.spread = spread(self.objective, params, world)
        self.loss: Callable[..., Tensor] = self.spread
        if identity["compiled"] and world.size == 1:
            self.loss = torch.compile(self.spread, dynamic=False)
        self.optimizers = Optimizers(self.model, params)
        self.scaler = grad_scaler(self.device, self.dtype)
        self.checkpoints = CheckpointFolder(run_folder, params.keep_checkpoints, world)
        self.log = MetricsLog(run_folder / "metrics.jsonl")
        self.progress = Progress()
        weights = trained_weights(self.model)
        self.best_weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self.upcoming: tuple[int, list[tuple[Tensor, ...]]] = (-1, [])
        self.tokens_per_micro_batch = params.batch_size * context

    def describe(self) -> str:
        """One line about the model and the run."""
        n_trained = sum(tensor.numel() for tensor in trained_weights(self.model).values())
        epochs = self.params.max_steps * self.params.grad_accum_steps / self.batches.per_epoch
        step_tokens = self.tokens_per_micro_batch * self.params.grad_accum_steps
        adapters = f" ({n_trained / 1e6:.2f}M in adapters, trained alone)" if self.params.lora_rank else ""
        return (
            f"{self.n_parameters / 1e6:.1f}M parameters{adapters}, {self.params.max_steps} steps of "
            f"{step_tokens} tokens ({epochs:.2f} epochs), {str(self.dtype).removeprefix('torch.')} on "
            f"{self.device}{', compiled' if self.identity['compiled'] else ''}"
            + (f", {self.world.size} processes ({self.params.parallel})" if self.world.size > 1 else "")
        )

    def resume(self) -> str | None:
        """Take up the newest checkpoint; says so, or returns None when there is none."""
        found = self.checkpoints.newest()
        if found:
            path, meta = found
            self.optimizers.make_state()
            state = self.state()
            self.checkpoints.load(path, state)
            torch.set_rng_state(state["rng.cpu"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(state["rng.cuda"], self.device)
            self.scaler.load_state_dict(meta["scaler"])
            self.progress = Progress(**meta["progress"])
        if self.world.is_main:
            self.log.cut_back(self.progress.step if found else -1)
        return f"resuming from step {self.progress.step} ({self.checkpoints.folder})" if found else None

    def loop(self, sink: Sink | None, stop: list[int], say: Callable[[str], None]) -> dict[str, float]:
        """All remaining steps; returns the closing figures."""
        params, progress = self.params, self.progress
        if sink:
            self.log.replay(sink)
        peak = matmul_flops(self.device, self.dtype) * self.world.size
        passes = 2 if params.lora_rank else 3  # forward, for the inputs' gradients, and for the weights'
        flops_per_token = passes * self.model.flops_per_token()
        hidden = None if self.world.is_main else True  # None: shown on a terminal
        bar = tqdm(total=params.max_steps, initial=progress.step, desc="train", unit="step", disable=hidden)
        val: dict[str, float] = {}
        while progress.step < params.max_steps:
            start = time.perf_counter()
            values = self.step()
            synchronize(self.device)
            seconds = time.perf_counter() - start
            progress.step += 1
            progress.seconds += seconds
            tokens = self.tokens_seen() - self.tokens_seen(progress.step - 1)
            values["training/tokens_per_s"] = tokens / seconds
            values["training/peak_share"] = flops_per_token * tokens / seconds / peak
            is_evaluated = progress.step % params.eval_interval == 0 or progress.step == params.max_steps
            text = None
            if is_evaluated:
                val = self.evaluate()
                text = self.sample()
                values |= val
            if self.world.is_main:
                self.log.append(progress.step, values, text)
            if sink:
                sink.write(progress.step, values)
                if text is not None:
                    sink.write_sample(progress.step, text)
            shown = {
                "loss": f"{values['training/loss']:.3f}",
                "tok/s": f"{values['training/tokens_per_s']:.0f}",
                "peak": f"{values['training/peak_share']:.0%}",
            } | ({"val bpb": f"{val['training/val_bpb']:.3f}"} if val else {})
            bar.set_postfix(shown, refresh=False)
            bar.update()
            if bar.disable and is_evaluated:
                left = (params.max_steps - progress.step) * (progress.seconds / progress.step)
                line = "  ".join(f"{name} {value}" for name, value in shown.items())
                say(f"step {progress.step}/{params.max_steps}  {line}  left {tqdm.format_interval(left)}")
            if number := self.world.max(stop[0] if stop else 0):
                self.save()
                bar.close()
                name = signal.Signals(number).name
                say(f"{name}: checkpoint saved at step {progress.step}; run the same command again to go on")
                raise Interrupted(128 + number)
            if progress.step % params.checkpoint_interval == 0 or progress.step == params.max_steps:
                self.save()
        bar.close()
        if not math.isfinite(progress.best_bpb):
            raise TrainingError(f"held-out bits per byte were never finite; {_WHAT_TO_TRY.format(lr=params.lr)}")
        summary = self._summary()
        if sink:
            sink.close(summary)
        return summary

    def step(self) -> dict[str, float]:
        """One optimizer step over all its micro-batches."""
        params, step = self.params, self.progress.step
        factor = schedule(step, params)
        self.optimizers.set_schedule(factor, momentum(step, params))
        micro_batches = self._micro_batches(step)
        # Here; every process has as many, and gradients are averaged over processes: in effect, of all of them.
        n_targets = sum(batch[1].numel() for batch in micro_batches)
        total = torch.zeros((), device=self.device)
        for i, batch in enumerate(micro_batches, start=1):
            with synchronized(self.spread, i == len(micro_batches)):
                loss = self.loss(*map(self._on_device, batch)) / n_targets
                self.scaler.scale(loss).backward()
            total += loss.detach()
        if step + 1 < params.max_steps:
            # A GPU is still at work on what has been asked of it so far; meanwhile the next step's tokens are read.
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
        values = {"training/loss": mean, "training/lr": params.lr * factor, "training/grad_norm": norm}
        return values | {f"training/grad_norm_{name}": value for name, value in norms.items()}

    def evaluate(self) -> dict[str, float]:
        """Loss and bits per byte on the val split; keeps the weights if they are the best so far."""
        self.model.eval()
        loss, bpb, by_modality = self.val.score(self.objective)
        let_go(self.spread)  # a forward pass without a backward pass leaves fsdp's weights gathered
        self.model.train()
        if bpb < self.progress.best_bpb:
            self.progress.best_bpb, self.progress.best_step = bpb, self.progress.step
            for name, tensor in trained_weights(self.model).items():
                self.best_weights[name].copy_(tensor)
        values = {"training/val_loss": loss, "training/val_bpb": bpb}
        return values | {f"training/val_bpb_{name}": value for name, value in by_modality.items()}

    def sample(self) -> str | None:
        """What the model writes by now; None where its weights are spread over the processes."""
        if self.params.parallel == "fsdp" and self.world.size > 1:
            return None
        with torch.compiler.set_stance("force_eager"):  # each length would be compiled anew
            return sample(self.model, self.tokenizer)

    def save(self) -> None:
        """Write a checkpoint of this step."""
        meta = {"progress": asdict(self.progress), "scaler": self.scaler.state_dict(), "identity": self.identity}
        self.checkpoints.save(self.progress.step, self.state(), meta)

    def state(self) -> dict[str, Tensor]:
        """All that changes from step to step, apart from `Progress` and the loss scale; of the tensors, not copies."""
        state = {f"model.{name}": tensor for name, tensor in trained_weights(self.model).items()}
        state |= {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        state |= {f"optimizer.{name}": tensor for name, tensor in self.optimizers.state().items()}
        state["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            state["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def write_model(self, output: Path) -> None:
        """Write the model folder: the chosen weights as WEIGHTS_NAME, the others beside them."""
        last = trained_weights(self.model)
        is_best = self.params.final_weights == "best"
        chosen, other = (self.best_weights, last) if is_best else (last, self.best_weights)
        files = {WEIGHTS_NAME: chosen, "last.safetensors" if is_best else "best.safetensors": other}
        # One file's weights at a time, which all processes gather and the first one holds.
        weights = ((name, merged_weights(self.model, trained, self.world.is_main)) for name, trained in files.items())
        if not self.world.is_main:
            for _ in weights:
                pass
            return
        provenance = {
            "step": self.progress.best_step if is_best else self.progress.step,
            "weights": self.params.final_weights,
            "n_parameters": self.n_parameters,
            "tokens_seen": self.tokens_seen(),
            "val_bpb": self.progress.best_bpb,
            "precision": str(self.dtype).removeprefix("torch."),
            "train": asdict(self.params),
            "init_sha256": self.identity["init_sha256"],
            "tokenizer_sha256": self.identity["tokens"]["tokenizer_sha256"],
            "code_sha256": self.identity["code"],
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        save_model_folder(
            output,
            self.model_params,
            self.vocab_size,
            weights,
            self.tokenizer_folder,
            provenance,
        )

    def _micro_batches(self, step: int) -> list[tuple[Tensor, ...]]:
        """A step's batches, on the host."""
        if self.upcoming[0] == step:
            return self.upcoming[1]
        n = self.params.grad_accum_steps
        return [self.batches[i] for i in range(step * n, (step + 1) * n)]

    def tokens_seen(self, step: int | None = None) -> int:
        """Tokens in the first `step` steps, or in all so far."""
        step = self.progress.step if step is None else step
        return step * self.params.grad_accum_steps * self.tokens_per_micro_batch

    def _on_device(self, batch: Tensor) -> Tensor:
        if self.device.type == "cuda":
            return batch.pin_memory().to(self.device, non_blocking=True)
        return batch

    def _note_bad_step(self, norm: float) -> None:
        self.progress.bad_steps += 1
        self.progress.skipped_steps += 1
        if self.progress.bad_steps >= self.params.max_bad_steps:
            raise TrainingError(
                f"the gradient was not finite ({norm}) in {self.progress.bad_steps} steps in a row, the last one step "
                f"{self.progress.step}; {_WHAT_TO_TRY.format(lr=self.params.lr)}"
            )

    def _summary(self) -> dict[str, float]:
        progress = self.progress
        return {
            "best/val_bpb": progress.best_bpb,
            "best/step": progress.best_step,
            "total/seconds": round(progress.seconds, 1),
            "total/tokens": self.tokens_seen(),
            "total/skipped_steps": progress.skipped_steps,
            "total/parameters": self.n_parameters,
        }


def _say_nothing(line: str) -> None:
    """For processes other than the first."""


@contextmanager
def _same_bits(device: torch.device) -> Iterator[None]:
    """On a CPU, make a run give the same bits every time.

    Compiled code otherwise adds up the embedding's gradient with several threads in whatever order they come.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(before or device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _forget(work: Path, finished: Path, keep_others: int = 3) -> None:
    """Delete the working folders of a complete run and of all but the newest interrupted ones.

    Folders without a checkpoint are of runs that failed before they had one; where another trainer is at work, its
    folder stays.
    """
    shutil.rmtree(finished)
    others = [path for path in work.iterdir() if path.is_dir() and not is_locked(path)]
    interrupted = sorted((path for path in others if any(path.glob("step-*"))), key=lambda path: path.stat().st_mtime)
    for path in set(others) - set(interrupted[-keep_others:]):
        shutil.rmtree(path)
