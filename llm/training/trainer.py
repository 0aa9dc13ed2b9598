"""The training loop: from token shards to a model folder, in steps that can be interrupted anywhere.

Worth knowing:

- What decides the numbers is in llm.training.run; this file shows, logs, saves and stops, and may be edited while a run
  is interrupted.
- SIGTERM and Ctrl-C end the current step, save a checkpoint and exit non-zero, so that DVC does not take half a run for
  a complete one. A resumed run equals an uninterrupted one bit for bit on a CPU.
- While a run diverges, no checkpoint is saved: it would only fail again from there. When the run has failed, those of
  the last steps before go too.
- The same lines run in every process of a run (llm.training.distributed); the first one prints, logs and writes the
  model.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from llm.config import ModelParams, TrainParams
from llm.hardware import keep_freed_memory, matmul_flops, synchronize
from llm.model_folder import ADAPTERS_NAME, WEIGHTS_NAME, save_model_folder
from llm.precision import autocast
from llm.stage_reports import tokens_meta_sha256
from llm.training.checkpoint import CheckpointFolder, RunLock, is_locked
from llm.training.distributed import join_world
from llm.training.fingerprint import code_sha256, run_identity
from llm.training.lora import adapter_weights, merged_weights, trained_weights
from llm.training.metrics import MetricsLog, Sink
from llm.training.mfu import mfu, training_flops_per_token
from llm.training.preview import preview
from llm.training.resuming import SavedRun, find_run_folder
from llm.training.run import Run, TrainingError
from llm.training.signals import stop_requests
from llm.training.stall import watch_processes
from llm.versions import versions


class Interrupted(SystemExit):
    """The run was asked to stop, and saved a checkpoint unless it diverged; exit code 128 + the signal's number."""


def train(
    model_params: ModelParams,
    params: TrainParams,
    tokens_folder: Path,
    tokenizer_folder: Path,
    work: Path,
    output: Path,
    open_sink: Callable[[], Sink] | None = None,
    say: Callable[[str], None] = print,
    confirm: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Train a model and write it to `output`; continue an interrupted run if there is one.

    Args:
        model_params, params: the ``model`` and ``train`` sections.
        tokens_folder, tokenizer_folder: what the tokenize stage wrote.
        work: where checkpoints are kept while the run is not complete (.work/train).
        output: the model folder to write.
        open_sink: makes the sink that metrics go to besides the log; called when the run really starts.
        say: prints a line for the user.
        confirm: called when the model is written, before the checkpoints are deleted; if it raises, they are kept.

    Returns the run's closing figures.

    Raises:
        Interrupted: after SIGTERM or Ctrl-C; a checkpoint is saved, unless the run diverges.
        TrainingError: the run diverged.
        ParamsError: the params do not fit the data, the machine, or the checkpoint that train.resume_from names.
    """
    keep_freed_memory()
    with join_world(params) as world:
        identity = run_identity(model_params, params, tokens_folder, world.device)
        run_folder = world.gather(find_run_folder(work, identity))[0]
        if not world.is_main:
            open_sink, say = None, _say_nothing
        checkpoints = CheckpointFolder(run_folder, params.keep_checkpoints, world)
        with (
            RunLock(run_folder, world),
            watch_processes(world, params.stall_timeout_s, checkpoints.how_to_go_on),
            stop_requests() as stop,
            _same_bits(world.device),
        ):
            run = Run(model_params, params, tokens_folder, tokenizer_folder, world)
            saved = SavedRun(run, checkpoints, MetricsLog(run_folder / "metrics.jsonl"), identity)
            say(_describe(run))
            say(saved.restore(work))
            summary = _loop(run, saved, open_sink() if open_sink else None, stop, say)
            _write_model(run, saved, tokenizer_folder, output)
            say(f"best val bpb {summary['best/val_bpb']:.4f} at step {summary['best/step']}; {output} is written")
            world.barrier()
        if world.is_main:
            confirm()
            _clean_up(work, run_folder, Path(params.resume_from).parent if params.resume_from else None)
    return summary


def _describe(run: Run) -> str:
    """One line about the model and the run."""
    params = run.params
    n_trained = sum(tensor.numel() for tensor in trained_weights(run.model).values())
    epochs = params.max_steps * params.grad_accum_steps / run.batches.per_epoch
    step_tokens = run.tokens_per_micro_batch * params.grad_accum_steps
    adapters = f" ({n_trained / 1e6:.2f}M in adapters, trained alone)" if params.lora_rank else ""
    return (
        f"{run.n_parameters / 1e6:.1f}M parameters{adapters}, {params.max_steps} steps of "
        f"{step_tokens} tokens ({epochs:.2f} epochs), {str(run.dtype).removeprefix('torch.')} on "
        f"{run.device}{', compiled' if run.is_compiled else ''}"
        + (f", {run.world.size} processes ({params.parallel})" if run.world.size > 1 else "")
    )


def _loop(
    run: Run, saved: SavedRun, sink: Sink | None, stop: list[int], say: Callable[[str], None]
) -> dict[str, float]:
    """All remaining steps; returns the closing figures."""
    params, progress, world = run.params, run.progress, run.world
    if sink:
        saved.log.replay(sink)
    peak = matmul_flops(run.device, run.dtype) * world.size
    flops_per_token = training_flops_per_token(run.model.flops_per_token(), trains_adapters=params.lora_rank > 0)
    hidden = None if world.is_main else True  # None: shown on a terminal
    bar = tqdm(total=params.max_steps, initial=progress.step, desc="train", unit="step", disable=hidden)
    val: dict[str, float] = {}
    is_due = False  # a checkpoint
    while progress.step < params.max_steps:
        tokens_before, start = progress.tokens, time.perf_counter()
        try:
            values = run.step()
        except TrainingError as error:
            raise TrainingError(f"{error}; {saved.go_back()}") from None
        synchronize(run.device)
        seconds = time.perf_counter() - start
        progress.seconds += seconds
        tokens_per_s = (progress.tokens - tokens_before) / seconds
        values["training/tokens_per_s"] = tokens_per_s
        values["training/mfu"] = mfu(tokens_per_s, flops_per_token, peak)
        is_evaluated = progress.step % params.eval_interval == 0 or progress.step == params.max_steps
        text = None
        if is_evaluated:
            val = run.evaluate()
            text = _preview(run)
            values |= val
        if world.is_main:
            saved.log.append(progress.step, values, text)
        if sink:
            sink.write(progress.step, values)
            if text is not None:
                sink.write_preview(progress.step, text)
        shown = {
            "loss": f"{values['training/loss']:.3f}",
            "tok/s": f"{tokens_per_s:.0f}",
            "mfu": f"{values['training/mfu']:.0%}",
        } | ({"val bpb": f"{val['training/val_bpb']:.3f}"} if val else {})
        bar.set_postfix(shown, refresh=False)
        bar.update()
        if bar.disable and is_evaluated:
            left = (params.max_steps - progress.step) * (progress.seconds / progress.step)
            line = "  ".join(f"{name} {value}" for name, value in shown.items())
            say(f"step {progress.step}/{params.max_steps}  {line}  left {tqdm.format_interval(left)}")
        number = world.max(stop[0] if stop else 0)
        is_due |= progress.step % params.checkpoint_interval == 0 or progress.step == params.max_steps
        is_saved = (number or is_due) and run.is_sound()
        if is_saved:
            saved.save()
            is_due = False
        if number:
            bar.close()
            done = "checkpoint saved" if is_saved else "no checkpoint saved, as the loss or the gradient is not sound,"
            say(f"{signal.Signals(number).name}: {done} at step {progress.step}; run the same command again to go on")
            raise Interrupted(128 + number)
    bar.close()
    if not math.isfinite(progress.best_bpb):
        raise TrainingError(f"held-out bits per byte were never finite; {run.advice()}; {saved.go_back()}")
    if run.has_diverged() and (params.final_weights == "last" or progress.best_step > progress.sound_step):
        raise TrainingError(
            f"the loss has been far above its lowest, {progress.lowest_loss:.3f}, since step {progress.sound_step}; "
            f"{run.advice()}; {saved.go_back()}"
        )
    summary = {
        "best/val_bpb": progress.best_bpb,
        "best/step": progress.best_step,
        "total/seconds": round(progress.seconds, 1),
        "total/tokens": progress.tokens,
        "total/skipped_steps": progress.skipped_steps,
        "total/parameters": run.n_parameters,
    }
    if sink:
        sink.close(summary)
    return summary


def _preview(run: Run) -> str | None:
    """What the model writes by now; None where its weights are sharded over the processes."""
    if run.params.parallel == "fsdp" and run.world.size > 1:
        return None
    # Each length would be compiled anew. In the precision of training, as frozen weights may be in bf16.
    with torch.compiler.set_stance("force_eager"), autocast(run.device, run.dtype):
        return preview(run.model, run.tokenizer)


def _write_model(run: Run, saved: SavedRun, tokenizer_folder: Path, output: Path) -> None:
    """Write the model folder; all processes have to call this."""
    # One file's weights at a time, which all processes gather and the first one holds.
    weights = _weight_files(run)
    if not run.world.is_main:
        for _ in weights:
            pass
        return
    provenance: dict[str, Any] = {
        "step": run.progress.best_step if run.params.final_weights == "best" else run.progress.step,
        "weights": run.params.final_weights,
        "n_parameters": run.n_parameters,
        "tokens_seen": run.progress.tokens,
        "val_bpb": run.progress.best_bpb,
        "precision": str(run.dtype).removeprefix("torch."),
        "train": asdict(run.params),
        "resumed_from": saved.origin,
        "init_sha256": saved.identity["init_sha256"],
        "tokens_sha256": tokens_meta_sha256(saved.identity["tokens"]),
        "tokenizer_sha256": saved.identity["tokens"]["tokenizer_sha256"],
        "code_sha256": code_sha256(saved.identity["code"]),
        "versions": {**run.batches.stream.meta.get("versions", {}), "train": versions("train")},
    }
    save_model_folder(output, run.model_params, run.vocab_size, weights, tokenizer_folder, provenance)


def _weight_files(run: Run) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The files of weights of a model folder, each made when it is asked for."""
    is_main = run.world.is_main
    for name, trained in run.chosen_weights().items():
        yield name, merged_weights(run.model, trained, is_main)
        if run.params.lora_rank and name == WEIGHTS_NAME:
            yield ADAPTERS_NAME, adapter_weights(trained, is_main)


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


def _clean_up(work: Path, finished: Path, kept: Path | None, keep_others: int = 3) -> None:
    """Delete the working folders of a complete run and of all but the newest interrupted ones.

    Folders without a checkpoint belong to runs that failed before they had one. A folder in which another trainer is
    at work stays, and so does `kept`, from which the complete run was resumed.
    """
    shutil.rmtree(finished)
    others = [path for path in work.iterdir() if path.is_dir() and not is_locked(path)]
    if kept:
        others = [path for path in others if path.resolve() != kept.resolve()]
    interrupted = sorted((path for path in others if any(path.glob("step-*"))), key=lambda path: path.stat().st_mtime)
    for path in set(others) - set(interrupted[-keep_others:]):
        shutil.rmtree(path)
