"""Native decoding against the eager model, on logits, and what happens where it cannot be had."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.inference import decode_step as compiled
from llm.inference.decode_step import NativeStep, compile_step
from llm.inference.engine import Engine
from llm.inference.kv_cache import CacheRows, KVCache
from llm.inference.native import model as native
from llm.inference.native.model import NativeError, NativeModel
from llm.inference.quantization import quantize_model
from llm.model import Transformer
from tests.conftest import tiny_model
from tests.support.models import lively, tokens_of
from tests.support.tokenizers import TOKENIZER

V = TOKENIZER.get_vocab_size()


def model(dtype: torch.dtype = torch.float32, **shape: Any) -> Transformer:
    # Widths that are no multiple of a vector, so that the ends of rows are computed too; 64 only where int4 is tested.
    shape = {"d_model": 40, "n_heads": 2, "n_kv_heads": 1, "d_head": 16, "d_ff": 56, **shape}
    return lively(Transformer(tiny_model(**shape), V)).to(dtype)


def engines(of: Transformer, cache_dtype: torch.dtype | None = None) -> tuple[Engine, Engine]:
    """The same weights, eager and native."""
    fast = copy.deepcopy(of)
    return (
        Engine(of, TOKENIZER, cache_dtype=cache_dtype),
        Engine(fast, TOKENIZER, cache_dtype=cache_dtype, step=NativeStep(NativeModel(fast))),
    )


def logits_in_pieces(engine: Engine, tokens: torch.Tensor, pieces: list[int]) -> torch.Tensor:
    cache = engine.new_cache(tokens.shape[0], 60)
    return torch.cat([engine.extend(piece, cache).float() for piece in tokens.split(pieces, dim=1)], dim=1)


@pytest.fixture(scope="module")
def pair() -> tuple[Engine, Engine]:
    return engines(model())


PIECES = [5, 1, 1, 11, 2, 1]  # of several rows, of one, and again


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"qk_norm": False, "tied_embeddings": False, "n_kv_heads": 2},
        {"n_heads": 4, "n_kv_heads": 2, "d_head": 64},
        {"n_layers": 1, "d_model": 128, "d_ff": 256},
    ],
    ids=str,
)
def test_logits_equal_the_eager_models(shape: dict[str, Any]) -> None:
    eager, fast = engines(model(**shape))
    tokens = torch.randint(V, (3, sum(PIECES)))
    expected = eager.model(tokens)
    torch.testing.assert_close(logits_in_pieces(fast, tokens, PIECES), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("threads", "n_kv_heads"), [(2, 2), (2, 3), (3, 1)])
def test_any_number_of_threads_gives_the_same_logits(threads: int, n_kv_heads: int) -> None:
    """With whole heads for each thread, and with heads that several share."""
    eager, fast = engines(model(n_heads=6, n_kv_heads=n_kv_heads))
    tokens = torch.randint(V, (2, sum(PIECES)))
    expected, n_threads = eager.model(tokens), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        logits = logits_in_pieces(fast, tokens, PIECES)
    finally:
        torch.set_num_threads(n_threads)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [None, "int8", "int4"])
@pytest.mark.parametrize("cache_dtype", [None, torch.int8], ids=str)
def test_logits_in_fewer_bits_equal_the_eager_models(dtype: torch.dtype, kind: Any, cache_dtype: Any) -> None:
    """Up to what rounding activations to bf16 does, which differs: compared with the fp32 model of the same weights."""
    quantized = model(dtype, d_model=64, d_ff=192)
    if kind:
        quantize_model(quantized, kind)
    eager, fast = engines(quantized, cache_dtype)
    exact = Engine(copy.deepcopy(quantized).float(), TOKENIZER, cache_dtype=cache_dtype)
    tokens = torch.randint(V, (2, sum(PIECES)), generator=torch.Generator().manual_seed(0))
    expected = logits_in_pieces(exact, tokens, PIECES)
    error = (logits_in_pieces(fast, tokens, PIECES) - expected).abs().max() / expected.abs().max()
    if dtype == torch.float32 and kind is None:
        assert error < (0.02 if cache_dtype else 1e-5)  # a value on the border may be rounded to int8 either way
    else:
        assert error < 0.05
        theirs = (logits_in_pieces(eager, tokens, PIECES) - expected).abs().max() / expected.abs().max()
        assert dtype == torch.float32 or error < 2 * theirs  # as good as eager bf16


prompts = st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=30), min_size=1, max_size=6)


@given(batch=prompts, n=st.integers(1, 25))
@settings(max_examples=30, deadline=None)
def test_greedy_output_is_the_same(pair: tuple[Engine, Engine], batch: list[list[int]], n: int) -> None:
    eager, fast = pair
    assert tokens_of(fast, batch, n) == tokens_of(eager, batch, n)


def test_a_cache_in_any_order_gives_the_same_logits() -> None:
    """As a paged cache has it: positions in scattered slots, heads next to each other, rows of several sequences."""
    eager = model()
    params, native_model = eager.params, NativeModel(copy.deepcopy(eager))
    n_slots, K, h = 40, params.n_kv_heads, params.head_dim
    k, v = ([torch.randn(n_slots, K, h) for _ in range(params.n_layers)] for _ in range(2))
    slots = torch.randperm(n_slots)[: 2 * 16].view(2, 16) * K
    tokens = torch.randint(V, (2, 12))
    expected = eager(tokens)
    for sequence, begin, end in ((0, 0, 7), (1, 0, 12), (0, 7, 12)):
        which = slice(sequence, sequence + 1)
        rows = CacheRows(k, v, [], [], 1, slots[which], torch.tensor([begin]))
        logits = native_model.forward(tokens[which, begin:end], rows)
        torch.testing.assert_close(logits, expected[which, begin:end], rtol=1e-4, atol=1e-4)
    both = native_model.forward(tokens[:, 11:], CacheRows(k, v, [], [], 1, slots, torch.tensor([11, 11])))
    torch.testing.assert_close(both, expected[:, 11:], rtol=1e-4, atol=1e-4)


@pytest.fixture
def own_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder for compiled libraries."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "cache_folder", lambda: tmp_path)
    native.load_library.cache_clear()
    compiled._say.cache_clear()
    yield tmp_path
    native.load_library.cache_clear()
    compiled._say.cache_clear()


PROCESSORS = {  # values of -march, and what /proc/cpuinfo calls what they need
    "x86-64": "sse2",
    "haswell": "avx2",
    "skylake-avx512": "avx512bw",
}


@pytest.mark.parametrize("march", [*PROCESSORS, None])
def test_any_processor_gives_the_same_logits(
    own_library: Path, monkeypatch: pytest.MonkeyPatch, march: str | None
) -> None:
    """What is compiled for processors with fewer instructions than this one, and without naming one at all."""
    if march and PROCESSORS[march] not in native._cpu_features().split():
        pytest.skip(f"this processor cannot run code for {march}")
    replaced = {"-march=native": f"-march={march}" if march else "-w", "-O3": "-O1"}  # -O1 is compiled sooner
    monkeypatch.setattr(native, "FLAGS", tuple(replaced.get(flag, flag) for flag in native.FLAGS))
    tokens = torch.randint(V, (3, sum(PIECES)))
    for kind in (None, "int8", "int4"):
        small = model(torch.bfloat16 if kind else torch.float32, d_model=64, d_ff=192)
        if kind:
            quantize_model(small, kind)
        eager, fast = engines(small, torch.int8 if kind else None)
        expected = logits_in_pieces(eager, tokens, PIECES)
        error = (logits_in_pieces(fast, tokens, PIECES) - expected).abs().max() / expected.abs().max()
        assert error < (0.05 if kind else 1e-5)
    (library,) = own_library.glob("*.so")
    written = library.stat().st_mtime_ns
    native.load_library.cache_clear()
    NativeModel(model())
    assert library.stat().st_mtime_ns == written  # a second start loads it


def test_a_compiler_that_knows_neither_native_nor_openmp_will_do(
    own_library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As Apple's for ARM."""
    real = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))
    limited = tmp_path / "bin" / "c++"
    limited.parent.mkdir()
    refused = 'case "$*" in *-fopenmp*|*-march=native*) echo "unsupported option" >&2; exit 1;; esac'
    limited.write_text(f'#!/bin/sh\n{refused}\nexec {real} "$@"\n')
    limited.chmod(0o755)
    monkeypatch.setenv("PATH", str(limited.parent), prepend=os.pathsep)
    monkeypatch.setattr(native, "FLAGS", tuple("-O1" if flag == "-O3" else flag for flag in native.FLAGS))
    tokens = torch.randint(V, (2, sum(PIECES)))
    eager, fast = engines(model())
    torch.testing.assert_close(
        logits_in_pieces(fast, tokens, PIECES), logits_in_pieces(eager, tokens, PIECES), rtol=1e-4, atol=1e-4
    )
    assert list(own_library.glob("*.so"))


def test_without_a_compiler_decoding_is_eager_and_says_so(
    own_library: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native.shutil, "which", lambda _: None)
    eager = model()
    assert compile_step(eager) is eager
    compile_step(eager)
    (line,) = capsys.readouterr().err.splitlines()
    assert "eagerly" in line
    assert "no C++ compiler" in line


def test_a_damaged_library_is_compiled_anew(own_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in native.FLAGS))
    NativeModel(model())
    (library,) = own_library.glob("*.so")
    damaged = own_library / "other" / library.name  # in its own place the library is in this process's memory
    damaged.parent.mkdir()
    damaged.touch()
    monkeypatch.setattr(native, "cache_folder", lambda: damaged.parent)
    native.load_library.cache_clear()
    NativeModel(model())
    assert damaged.stat().st_size > 0


def test_without_a_home_libraries_are_kept_in_a_temporary_folder_of_the_users_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(native.Path, "home", no_home)
    monkeypatch.setattr(native.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    folder = tmp_path / "tmp" / f"folder-to-llm-{os.getuid()}"
    folder.parent.mkdir()
    for _ in range(2):
        assert native.cache_folder() == folder
        assert folder.stat().st_mode & 0o777 == 0o700
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file / "in"))  # where nothing can be written
    assert native.cache_folder() == folder
    folder.chmod(0o777)
    with pytest.raises(NativeError, match="not a folder of yours alone"):
        native.cache_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(NativeError, match="not a folder of yours alone"):
        native.cache_folder()
    folder.unlink()
    monkeypatch.setattr(native.os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    (tmp_path / "tmp" / f"folder-to-llm-{os.getuid()}").mkdir(mode=0o700)
    with pytest.raises(NativeError, match="not a folder of yours alone"):
        native.cache_folder()


def test_what_it_does_not_compute_is_refused() -> None:
    with pytest.raises(NativeError, match="multiple of 16"):
        NativeModel(Transformer(tiny_model(), V))
    with pytest.raises(NativeError, match="float16"):
        NativeModel(model(torch.float16))
    small = model()
    fast, cache = NativeModel(small), KVCache(small.params, 1, 20, torch.float32, torch.device("cpu"))
    for tokens, filled in (([[V]], 0), ([[-1]], 0), ([[0]], 20), ([[0, 0]], 19), ([[0]], -1)):
        cache.lengths.fill_(filled)
        with pytest.raises(ValueError, match=f"tokens must be below {V} and positions below 20"):
            fast.forward(torch.tensor(tokens), cache.as_rows())
