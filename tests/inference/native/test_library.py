"""Compiling the native library, for this processor and others, and where it is kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llm.inference.native import NativeError, NativeModel, library
from llm.inference.quantization import quantize_model
from tests.conftest import ROOT
from tests.support.native_models import PIECES, engines, logits_in_pieces, native_model
from tests.support.tokenizers import TOKENIZER

V = TOKENIZER.get_vocab_size()


@pytest.fixture
def own_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder for compiled libraries."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path)
    library.load_library.cache_clear()
    yield tmp_path
    library.load_library.cache_clear()


PROCESSORS = {  # values of -march, and what /proc/cpuinfo calls what they need
    "x86-64": "sse2",
    "haswell": "avx2",
    "skylake-avx512": "avx512bw",
}


@pytest.mark.parametrize("march", [*PROCESSORS, None])
def test_any_processor_gives_the_same_logits(
    own_library: Path, monkeypatch: pytest.MonkeyPatch, march: str | None
) -> None:
    """Libraries for processors with fewer instructions than this one, and for no processor in particular."""
    if march and PROCESSORS[march] not in library._cpu_features().split():
        pytest.skip(f"this processor cannot run code for {march}")
    replaced = {"-march=native": f"-march={march}" if march else "-w", "-O3": "-O1"}  # -O1 is compiled sooner
    monkeypatch.setattr(library, "FLAGS", tuple(replaced.get(flag, flag) for flag in library.FLAGS))
    tokens = torch.randint(V, (3, sum(PIECES)))
    for kind in (None, "int8", "int4"):
        small = native_model(torch.bfloat16 if kind else torch.float32, d_model=64, d_ff=192)
        if kind:
            quantize_model(small, kind)
        eager, fast = engines(small, torch.int8 if kind else None)
        expected = logits_in_pieces(eager, tokens, PIECES)
        error = (logits_in_pieces(fast, tokens, PIECES) - expected).abs().max() / expected.abs().max()
        assert error < (0.05 if kind else 1e-5)
    (compiled,) = own_library.glob("*.so")
    written = compiled.stat().st_mtime_ns
    library.load_library.cache_clear()
    NativeModel(native_model())
    assert compiled.stat().st_mtime_ns == written  # a second start loads it


def test_a_compiler_that_knows_neither_native_nor_openmp_will_do(
    own_library: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Like Apple's compiler for ARM."""
    real = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))
    limited = tmp_path / "bin" / "c++"
    limited.parent.mkdir()
    refused = 'case "$*" in *-fopenmp*|*-march=native*) echo "unsupported option" >&2; exit 1;; esac'
    limited.write_text(f'#!/bin/sh\n{refused}\nexec {real} "$@"\n')
    limited.chmod(0o755)
    monkeypatch.setenv("PATH", str(limited.parent), prepend=os.pathsep)
    monkeypatch.setattr(library, "FLAGS", tuple("-O1" if flag == "-O3" else flag for flag in library.FLAGS))
    tokens = torch.randint(V, (2, sum(PIECES)))
    eager, fast = engines(native_model())
    torch.testing.assert_close(
        logits_in_pieces(fast, tokens, PIECES), logits_in_pieces(eager, tokens, PIECES), rtol=1e-4, atol=1e-4
    )
    assert list(own_library.glob("*.so"))


def test_a_damaged_library_is_compiled_anew(own_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "FLAGS", tuple("-O0" if flag == "-O3" else flag for flag in library.FLAGS))
    NativeModel(native_model())
    (compiled,) = own_library.glob("*.so")
    damaged = own_library / "other" / compiled.name  # in its own place the library is in this process's memory
    damaged.parent.mkdir()
    damaged.touch()
    monkeypatch.setattr(library, "cache_folder", lambda: damaged.parent)
    library.load_library.cache_clear()
    NativeModel(native_model())
    assert damaged.stat().st_size > 0


def test_without_a_home_libraries_are_kept_in_a_temporary_folder_of_the_users_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_such_user(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_such_user)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(library.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    folder = tmp_path / "tmp" / f"folder-to-llm-{os.getuid()}"
    folder.parent.mkdir()
    for _ in range(2):
        assert library.cache_folder() == folder
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "~").exists()
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file / "in"))  # where nothing can be written
    assert library.cache_folder() == folder
    folder.chmod(0o777)
    with pytest.raises(NativeError, match="not a folder of yours alone"):
        library.cache_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(NativeError, match="not a folder of yours alone"):
        library.cache_folder()
    folder.unlink()
    monkeypatch.setattr(library.os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    (tmp_path / "tmp" / f"folder-to-llm-{os.getuid()}").mkdir(mode=0o700)
    with pytest.raises(NativeError, match="not a folder of yours alone"):
        library.cache_folder()


def test_the_rest_of_the_code_imports_native_code_from_its_package_alone() -> None:
    inside = ROOT / "llm" / "inference" / "native"
    for path in (ROOT / "llm").rglob("*.py"):
        if inside not in path.parents:
            assert "import llm.inference.native." not in (text := path.read_text(encoding="utf-8")), path
            assert "from llm.inference.native." not in text, path


def test_importing_compiles_nothing() -> None:
    code = "import llm.inference.engine; from llm.inference.native.library import load_library as load; "
    subprocess.run([sys.executable, "-c", f"{code}assert load.cache_info().misses == 0"], check=True, cwd=ROOT)
