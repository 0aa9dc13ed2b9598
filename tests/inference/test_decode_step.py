from __future__ import annotations

from collections.abc import Iterator

import pytest

from llm.inference.decode_step import _warn_once, compile_step
from llm.inference.native import library
from tests.support.native_models import native_model


@pytest.fixture
def _not_loaded() -> Iterator[None]:
    """No library has been loaded yet, and no warning has been printed."""
    for function in (library.load_library, _warn_once):
        function.cache_clear()
    yield
    for function in (library.load_library, _warn_once):
        function.cache_clear()


@pytest.mark.usefixtures("_not_loaded")
def test_without_a_compiler_decoding_is_eager_with_one_line_that_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(library.shutil, "which", lambda _: None)
    eager = native_model()
    assert compile_step(eager) is eager
    compile_step(eager)
    (line,) = capsys.readouterr().err.splitlines()
    assert "eagerly" in line
    assert "no C++ compiler" in line
