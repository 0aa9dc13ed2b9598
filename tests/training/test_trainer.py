from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llm.config import ParamsError, TrainParams
from llm.data.token_shards import TokenStream
from llm.errors import UserError
from llm.model_folder import load_model_folder
from llm.precision import resolve_precision, resolve_residual
from llm.tokenizer import end_of_text_id, token_bytes
from llm.training.batches import Batches
from llm.training.checkpoint import RunLock
from llm.training.distributed import World
from llm.training.fingerprint import fingerprint, run_identity
from llm.training.held_out import HeldOut
from llm.training.loss import require_liger
from llm.training.objective import Objective
from llm.training.run import Run, TrainingError
from llm.training.trainer import Interrupted, train
from tests.conftest import Corpus, tiny_model, tiny_train
from tests.support.training_runs import crash, interrupt_at, run
from tests.support.transformers_models import hf_model


def spoil_losses(monkeypatch: pytest.MonkeyPatch, factor: float, when: Callable[[int], bool]) -> None:
    """Multiply the training losses of some steps."""
    original, step = Run.step, 0

    def counting(self: Any) -> dict[str, float]:
        nonlocal step
        step = self.progress.step
        return original(self)

    def spoiled(self: Objective, hidden: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
        loss = head_loss(self, hidden, targets, reduction)
        return loss * factor if reduction == "sum" and when(step) else loss

    head_loss = Objective.head_loss
    monkeypatch.setattr(Run, "step", counting)
    monkeypatch.setattr(Objective, "head_loss", spoiled)


def test_training_lowers_the_loss_and_writes_a_model_that_loads(corpus: Corpus, tmp_path: Path) -> None:
    result = run(corpus, tmp_path, tiny_model(), tiny_train(max_steps=40, warmup_steps=5, lr=1e-2, batch_size=4))
    losses = [values["training/loss"] for _, values in result.sink.rows]
    assert losses[-1] < 0.9 * losses[0]
    model, tokenizer, config = load_model_folder(result.folder, torch.device("cpu"))
    assert config["provenance"]["versions"]["train"]["torch"] == torch.__version__
    assert config["provenance"]["val_bpb"] == result.summary["best/val_bpb"]
    assert model.vocab_size == tokenizer.get_vocab_size()
    assert not list((tmp_path / "work").glob("*/step-*"))  # the working state of a complete run is gone


def test_reported_bpb_is_that_of_an_independent_computation(corpus: Corpus, tmp_path: Path) -> None:
    params = tiny_train(eval_tokens=10**9)
    result = run(corpus, tmp_path, tiny_model(), params)
    model, tokenizer, _ = load_model_folder(result.folder, torch.device("cpu"))
    stream, n_bytes = TokenStream(corpus.tokens, "val"), token_bytes(tokenizer)
    nats, total_bytes = 0.0, 0
    for shard in stream.shards:
        for start in range(0, len(shard) - 64, 64):
            window = torch.tensor(shard[start : start + 65].astype(int))
            logits = (
                hf_model(model)(window[None, :-1]).logits[0].double() if start == 0 else model(window[None, :-1])[0]
            )
            log_p = logits.double().log_softmax(-1)
            nats -= sum(log_p[t, window[t + 1]].item() for t in range(64))
            total_bytes += sum(int(n_bytes[int(token)]) for token in window[1:])
    assert result.summary["best/val_bpb"] == pytest.approx(nats / math.log(2) / total_bytes, rel=1e-5)


def test_with_attention_inside_documents_each_is_scored_as_if_alone(corpus: Corpus, tmp_path: Path) -> None:
    params = tiny_train(eval_tokens=10**9, document_attention=True, packing="documents")
    result = run(corpus, tmp_path, tiny_model(), params)
    model, tokenizer, _ = load_model_folder(result.folder, torch.device("cpu"))
    n_bytes, end_of_text = token_bytes(tokenizer), end_of_text_id(tokenizer)
    nats, total_bytes, n_cuts = 0.0, 0, 0
    for shard in TokenStream(corpus.tokens, "val").shards:
        for start in range(0, len(shard) - 64, 64):
            window = shard[start : start + 65].astype(int)
            cuts = [0, *(i for i in range(1, 64) if window[i] == end_of_text), 64]
            for begin, end in itertools.pairwise(cuts):
                log_p = model(torch.tensor(window[None, begin:end])).double().log_softmax(-1)[0]
                nats -= sum(log_p[t, window[begin + t + 1]].item() for t in range(end - begin))
            total_bytes += sum(int(n_bytes[token]) for token in window[1:])
            n_cuts += len(cuts) - 2
    assert n_cuts
    assert result.summary["best/val_bpb"] == pytest.approx(nats / math.log(2) / total_bytes, rel=1e-5)


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (2, {}),
        (6, {"packing": "documents", "document_attention": True}),
        (7, {}),
        (11, {"grad_accum_steps": 3, "packing": "documents"}),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, changes: dict[str, Any]
) -> None:
    params = tiny_train(**changes)
    whole = run(corpus, tmp_path / "whole", tiny_model(), params)
    interrupt_at(monkeypatch, step, crash)
    with pytest.raises(MemoryError):
        run(corpus, tmp_path / "cut", tiny_model(), params)
    resumed = run(corpus, tmp_path / "cut", tiny_model(), params)
    assert [at for at, _ in whole.sink.previews] == [4, 8, 12]
    assert resumed.sink.previews == whole.sink.previews
    assert (f"resuming from step {step // 4 * 4}" in " ".join(resumed.said)) == (step >= 4)
    assert resumed.sink.exact() == whole.sink.exact()
    for name, tensor in whole.weights().items():
        assert torch.equal(tensor, resumed.weights()[name]), name


def test_steps_read_each_micro_batch_once(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    original = Batches.__getitem__

    def watched(self: Batches, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        read.append(i)
        return original(self, i)

    monkeypatch.setattr(Batches, "__getitem__", watched)
    result = run(corpus, tmp_path, tiny_model(), tiny_train(max_steps=12, grad_accum_steps=4))
    assert read == list(range(12 * 4))
    assert result.summary["total/tokens"] == 12 * 4 * 2 * 64


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_save_and_exit_non_zero(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    whole = run(corpus, tmp_path / "whole", tiny_model(), tiny_train())
    interrupt_at(monkeypatch, 5, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted) as stopped:
        run(corpus, tmp_path / "cut", tiny_model(), tiny_train())
    assert stopped.value.code == 128 + number
    assert not (tmp_path / "cut" / "final").exists()
    resumed = run(corpus, tmp_path / "cut", tiny_model(), tiny_train())
    assert "resuming from step 6" in " ".join(resumed.said)  # the step that was under way is not lost
    assert resumed.sink.exact() == whole.sink.exact()


def test_a_second_sigterm_does_not_end_a_run_before_its_checkpoint(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    interrupt_at(monkeypatch, 5, twice)
    with pytest.raises(Interrupted):
        run(corpus, tmp_path, tiny_model(), tiny_train())
    assert max(path.name for path in (tmp_path / "work").glob("*/step-*")) == "step-00000006"


def test_only_the_newest_checkpoints_are_kept(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(monkeypatch, 7, crash)
    with pytest.raises(MemoryError):
        run(corpus, tmp_path, tiny_model(), tiny_train(checkpoint_interval=1, keep_checkpoints=3))
    kept = [path.name for path in sorted((tmp_path / "work").glob("*/*step-*"))]
    assert kept == ["step-00000005", "step-00000006", "step-00000007"]


def start(corpus: Corpus, params: TrainParams) -> Run:
    """A run before its first step."""
    return Run(tiny_model(), params, corpus.tokens, corpus.tokenizer, World(torch.device("cpu")))


def test_activation_checkpointing_is_applied_to_every_block(corpus: Corpus, tmp_path: Path) -> None:
    tokens, calls = torch.randint(512, (1, 65)), 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for is_on in (True, False):
        begun, calls = start(corpus, tiny_train(activation_checkpointing=is_on)), 0
        for block in begun.model.blocks:
            block.attention.register_forward_pre_hook(count)
        begun.objective(tokens[:, :-1], tokens[:, 1:]).backward()
        assert calls == (4 if is_on else 2)  # a second time on the way back


def test_other_settings_start_afresh_and_say_why(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 9, crash)
    with pytest.raises(MemoryError):
        run(corpus, tmp_path, tiny_model(), tiny_train())
    other = run(corpus, tmp_path, tiny_model(n_layers=3), tiny_train(lr=1e-3))
    assert "starting at step 0" in other.said[1]
    assert "model.n_layers 2 -> 3" in other.said[1]
    assert "train.lr 0.02 -> 0.001" in other.said[1]
    # ... and the interrupted run can still be finished.
    assert "resuming from step 8" in run(corpus, tmp_path, tiny_model(), tiny_train()).said[1]


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_damaged_checkpoint_of_another_run_is_in_nobodys_way(corpus: Corpus, tmp_path: Path, content: str) -> None:
    other = tmp_path / "work" / "another" / "step-00000004" / "meta.json"
    other.parent.mkdir(parents=True)
    other.write_text(content)
    assert run(corpus, tmp_path, tiny_model(), tiny_train()).said[1] == "starting at step 0"


def test_what_does_not_decide_the_result_does_not_start_afresh(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 5, crash)
    with pytest.raises(MemoryError):
        run(corpus, tmp_path, tiny_model(), tiny_train(final_weights="best"))
    changes: dict[str, Any] = {"final_weights": "last", "max_bad_steps": 3, "tokens_per_parameter": 7.0}
    changes |= {"lora_alpha": 3.0, "lora_modules": ["q_proj"], "residual": "fp32", "keep_checkpoints": 5}
    if not torch.cuda.is_available():
        changes["device"] = "auto"
    resumed = run(corpus, tmp_path, tiny_model(), tiny_train(**changes))
    assert "resuming from step 4" in resumed.said[1]
    assert (resumed.folder / "best.safetensors").exists()  # final_weights: last is what counts at the end


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"compile": True}, {"seed": 1}])
def test_what_autos_come_to_decides_whose_run_it_is(corpus: Corpus, changes: dict[str, Any]) -> None:
    def name(**settings: Any) -> str:
        return fingerprint(run_identity(tiny_model(), tiny_train(**settings), corpus.tokens, torch.device("cpu")))

    assert name(**changes) != name()


def test_a_damaged_newest_checkpoint_falls_back(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 9, crash)
    with pytest.raises(MemoryError):
        run(corpus, tmp_path, tiny_model(), tiny_train())
    newest = max((tmp_path / "work").glob("*/step-*"))
    (shard,) = newest.glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.warns(UserWarning, match="step-00000008 is damaged"):
        resumed = run(corpus, tmp_path, tiny_model(), tiny_train())
    assert "resuming from step 4" in resumed.said[1]


def test_damaged_checkpoints_do_not_push_out_those_that_come_after(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = tiny_train(keep_checkpoints=1)
    interrupt_at(monkeypatch, 9, crash)
    with pytest.raises(MemoryError):
        run(corpus, tmp_path, tiny_model(), params)
    (only,) = (tmp_path / "work").glob("*/step-*")
    (only / "meta.json").write_text("")
    interrupt_at(monkeypatch, 5, crash)
    with pytest.warns(UserWarning, match="step-00000008 is damaged"), pytest.raises(MemoryError):
        run(corpus, tmp_path, tiny_model(), params)
    assert [path.name for path in only.parent.glob("step-*")] == ["step-00000004"]
    assert "resuming from step 4" in run(corpus, tmp_path, tiny_model(), params).said[1]


def test_checkpoints_cannot_execute_code(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "owned"),))

    interrupt_at(monkeypatch, 5, crash)
    with pytest.raises(MemoryError):
        run(corpus, tmp_path, tiny_model(), tiny_train())
    (checkpoint,) = (tmp_path / "work").glob("*/step-*")
    (shard,) = checkpoint.glob("*.safetensors")
    torch.save(Payload(), shard)
    meta = json.loads((checkpoint / "meta.json").read_text())
    meta["files"][shard.name] = hashlib.sha256(shard.read_bytes()).hexdigest()
    (checkpoint / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"step-00000004: cannot be loaded \(.*\); delete it and run again"):
        run(corpus, tmp_path, tiny_model(), tiny_train())
    assert not (tmp_path / "owned").exists()


def test_a_full_disk_is_one_line_and_loses_nothing(corpus: Corpus, tmp_path: Path) -> None:
    """Files of this process may not grow beyond a size between the metrics log's and a checkpoint's."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write a checkpoint \(.*File too large.*\); free some"):
            run(corpus, tmp_path, tiny_model(), tiny_train())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "work").glob("*/*step-*"))
    assert "starting at step 0" in run(corpus, tmp_path, tiny_model(), tiny_train()).said[1]


def test_a_checkpoint_without_one_of_its_files_is_passed_over(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 9, crash)
    with pytest.raises(MemoryError):
        run(corpus, tmp_path, tiny_model(), tiny_train())
    next(max((tmp_path / "work").glob("*/step-*")).glob("*.safetensors")).unlink()
    with pytest.warns(UserWarning, match=r"step-00000008 is damaged \(.*No such file"):
        assert "resuming from step 4" in run(corpus, tmp_path, tiny_model(), tiny_train()).said[1]


def test_accumulated_micro_batches_equal_one_large_batch(corpus: Corpus, tmp_path: Path) -> None:
    # AdamW, since Muon's bf16 matrix products would amplify differences in the last bit.
    base = tiny_train(optimizer="adamw", lr=4e-3)
    large = run(corpus, tmp_path / "a", tiny_model(), dataclasses.replace(base, batch_size=8, grad_accum_steps=1))
    small = run(corpus, tmp_path / "b", tiny_model(), dataclasses.replace(base, batch_size=2, grad_accum_steps=4))
    for (_, a), (_, b) in zip(large.sink.rows[:3], small.sink.rows[:3], strict=True):
        assert a["training/loss"] == pytest.approx(b["training/loss"], rel=1e-5)
        assert a["training/grad_norm"] == pytest.approx(b["training/grad_norm"], rel=1e-5)


def test_a_second_trainer_is_refused_with_the_pid_of_the_first(corpus: Corpus, tmp_path: Path) -> None:
    folder = (
        tmp_path / "work" / fingerprint(run_identity(tiny_model(), tiny_train(), corpus.tokens, torch.device("cpu")))
    )
    with RunLock(folder, World(torch.device("cpu"))), pytest.raises(UserError, match=f"pid {os.getpid()}"):
        run(corpus, tmp_path, tiny_model(), tiny_train())


def test_a_finished_run_clears_away_all_but_the_newest_interrupted_ones(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    for lr in (0.01, 0.011, 0.012, 0.013):  # interrupted with a checkpoint; the first one is the oldest
        interrupt_at(monkeypatch, 5, crash)
        with pytest.raises(MemoryError):
            run(corpus, tmp_path, tiny_model(), tiny_train(lr=lr))
    oldest, *newest = sorted(work.iterdir(), key=lambda path: path.stat().st_mtime)
    for lr in (0.014, 0.015, 0.016):  # failed before they had one
        interrupt_at(monkeypatch, 1, crash)
        with pytest.raises(MemoryError):
            run(corpus, tmp_path, tiny_model(), tiny_train(lr=lr))
    at_work = work / "another"
    with RunLock(at_work, World(torch.device("cpu"))):
        run(corpus, tmp_path, tiny_model(), tiny_train())
    assert not oldest.exists()
    assert set(work.iterdir()) == {*newest, at_work}


def test_a_gradient_that_stays_non_finite_stops_the_run(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_losses(monkeypatch, math.nan, lambda step: step >= 3)
    with pytest.raises(
        TrainingError, match=r"in 4 steps in a row, the last one step 6; the same parameters would fail"
    ):
        run(corpus, tmp_path, tiny_model(), tiny_train(max_bad_steps=4))


def test_a_run_that_explodes_goes_back_to_a_checkpoint_from_before(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From step 22 on the weights grow: losses rise far, are finite for some fifty steps, and at last NaN."""
    original = Run.step

    def exploding(self: Run) -> dict[str, float]:
        values = original(self)
        if self.progress.step >= 22:
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.mul_(4)
        return values

    params = tiny_train(max_steps=200, checkpoint_interval=10, eval_interval=10, max_bad_steps=6)
    monkeypatch.setattr(Run, "step", exploding)
    kept = r"to go on with other parameters from before that, set train.resume_from to (\S+/step-00000010)$"
    for said in ("starting at step 0", "resuming from step 10"):  # the same again, and from no later checkpoint
        with pytest.raises(TrainingError, match=r"\(nan\) in 6 steps in a row") as error:
            train(
                *(tiny_model(), params, corpus.tokens, corpus.tokenizer, tmp_path / "work", tmp_path / "final"),
                say=(lines := []).append,
            )
        assert said in " ".join(lines)
        found = re.search(kept, str(error.value))
        assert found, error.value
        assert [path.name for path in (tmp_path / "work").glob("*/*step-*")] == ["step-00000010"]
    monkeypatch.undo()
    other = dataclasses.replace(params, max_steps=40, resume_from=found[1], lr=1e-3)
    assert run(corpus, tmp_path, tiny_model(), other).summary["total/skipped_steps"] == 0


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        (
            {"precision": "fp32"},
            "try a lower train.lr (now 1e+30), a lower train.muon_lr (now 0.01) or a longer train.w",
        ),
        (
            {"precision": "bf16", "optimizer": "adamw"},
            "now 1e+30), a longer train.warmup_steps or train.precision fp32;",
        ),
        ({"precision": "fp32", "grad_clip": 0.0}, "a longer train.warmup_steps or train.grad_clip 1.0;"),
    ],
)
def test_what_is_said_to_help_is_not_what_is_set_already(
    corpus: Corpus, tmp_path: Path, changes: dict[str, Any], advice: str
) -> None:
    params = tiny_train(lr=1e30, muon_lr=0.01, max_steps=40, checkpoint_interval=1, **changes)
    with pytest.raises(TrainingError, match="the same parameters would fail again in the same way") as error:
        run(corpus, tmp_path, tiny_model(), params)
    assert advice in str(error.value)
    assert "there is no checkpoint from before" in str(error.value)
    assert not list((tmp_path / "work").glob("*/step-*"))


def test_a_step_that_is_not_sound_puts_a_checkpoint_off(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_losses(monkeypatch, math.inf, lambda step: step == 3)  # the fourth, after which one is due
    interrupt_at(monkeypatch, 6, crash)
    with pytest.raises(MemoryError):
        run(corpus, tmp_path, tiny_model(), tiny_train())
    assert [path.name for path in (tmp_path / "work").glob("*/step-*")] == ["step-00000005"]


def test_a_run_that_ends_far_from_its_best_fails_unless_it_keeps_the_best(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_losses(monkeypatch, 1e3, lambda step: step >= 6)
    params = tiny_train(max_steps=18, eval_interval=6)
    with pytest.raises(
        TrainingError, match=r"loss has been far above its lowest, [56]\.\d+, since step 6; the same param"
    ):
        run(corpus, tmp_path / "last", tiny_model(), dataclasses.replace(params, final_weights="last"))
    assert not (tmp_path / "last" / "final").exists()


def test_a_run_whose_held_out_figures_are_never_finite_fails(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HeldOut, "score", lambda *_: (math.nan, math.nan, {}))
    with pytest.raises(TrainingError, match=r"held-out bits per byte were never finite; the same parameters"):
        run(corpus, tmp_path, tiny_model(), tiny_train())
    assert not (tmp_path / "final").exists()


def test_a_single_bad_step_is_skipped_and_counted(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_losses(monkeypatch, math.inf, lambda step: step == 3)
    result = run(corpus, tmp_path, tiny_model(), tiny_train())
    assert result.summary["total/skipped_steps"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in result.weights().values())


def test_a_tokenizer_that_does_not_fit_the_tokens_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    content = json.loads((corpus.tokenizer / "tokenizer.json").read_text())
    ids = content["model"]["vocab"]
    first, second = list(ids)[300:302]
    ids[first], ids[second] = ids[second], ids[first]  # of the same size, and wrong all the same
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"is not the tokenizer that .*tokens was written with; run `dvc repro token"):
        train(tiny_model(), tiny_train(), corpus.tokens, tmp_path, tmp_path / "work", tmp_path / "final")


def test_bf16_autocast_stays_close_to_fp32(corpus: Corpus, tmp_path: Path) -> None:
    exact = run(corpus, tmp_path / "a", tiny_model(), tiny_train())
    mixed = run(corpus, tmp_path / "b", tiny_model(), tiny_train(precision="bf16"))
    assert mixed.sink.rows[-1][1]["training/val_loss"] == pytest.approx(
        exact.sink.rows[-1][1]["training/val_loss"], rel=0.01
    )
    assert mixed.sink.rows[0][1]["training/grad_norm"] != exact.sink.rows[0][1]["training/grad_norm"]
    assert all(tensor.dtype == torch.float32 for tensor in mixed.weights().values())


@pytest.mark.parametrize("in_documents", [False, True])
def test_a_compiled_run_computes_the_same(corpus: Corpus, tmp_path: Path, in_documents: bool) -> None:
    """Compiled, with the blocked attention that goes with it, against the plain run."""
    shape, params = tiny_model(n_layers=1, context_length=256), tiny_train(max_steps=4, document_attention=in_documents)
    plain = run(corpus, tmp_path / "a", shape, params)
    compiled = run(corpus, tmp_path / "b", shape, dataclasses.replace(params, compile=True))
    assert "compiled" in compiled.said[0]
    for (_, a), (_, b) in zip(plain.sink.rows, compiled.sink.rows, strict=True):
        assert b["training/loss"] == pytest.approx(a["training/loss"], rel=1e-4)
        assert b["training/grad_norm"] == pytest.approx(a["training/grad_norm"], rel=1e-3)


def test_a_compiled_run_on_several_threads_gives_the_same_bits_twice(corpus: Corpus, tmp_path: Path) -> None:
    """As users run it: the gradient of a token that occurs in many places is summed by all threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        settings = tiny_train(max_steps=6, compile=True, batch_size=8)
        first, second = (run(corpus, tmp_path / name, tiny_model(), settings).weights() for name in "ab")
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"train.precision: fp16 needs a CUDA device"):
        resolve_precision("fp16", torch.device("cpu"))


def test_the_residual_stream_in_bf16_trains_as_well_and_is_auto_on_cuda_alone(corpus: Corpus, tmp_path: Path) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    auto, half = tiny_train(residual="auto"), tiny_train(residual="bf16", precision="bf16")
    for device, dtype, residual in (
        (cuda, torch.bfloat16, torch.bfloat16),
        (cuda, torch.float16, torch.float32),
        (cuda, torch.float32, torch.float32),
        (cpu, torch.bfloat16, torch.float32),
    ):
        assert resolve_residual(auto, dtype, device) == residual
    with pytest.raises(ParamsError, match=r"train\.residual: bf16 needs matrix products in bf16 \(train\.precision\)"):
        run(corpus, tmp_path, tiny_model(), dataclasses.replace(half, precision="fp32"))
    results = [
        run(corpus, tmp_path / residual, tiny_model(), dataclasses.replace(half, residual=residual))
        for residual in ("bf16", "fp32")
    ]
    a, b = (result.summary["best/val_bpb"] for result in results)
    assert a != b
    assert a == pytest.approx(b, rel=0.01)


def test_ligers_loss_without_a_gpu_or_its_package_is_an_error_that_says_what_to_do(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        ParamsError, match=r"train\.loss: liger needs a CUDA device, and this is a cpu; use full or chunk"
    ):
        run(corpus, tmp_path, tiny_model(), tiny_train(loss="liger"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ParamsError, match=r"pip install 'folder-to-llm\[gpu\]'"):
        require_liger(torch.device("cuda"))
