from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from llm.data.readers import djvu
from llm.data.readers.base import Rejected
from llm.data.readers.identify import identify
from llm.data.readers.text import read
from tests.support.files import draw_image, ingest_params

HEAD = b"AT&TFORM\0\0\0\x20DJVUINFO"


def test_without_the_program_the_reason_says_what_would_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(djvu, "version", lambda: "")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    (tmp_path / "a.txt").write_bytes(HEAD + bytes(99))
    found = identify(str(tmp_path / "a.txt"), "a.txt")
    assert (found.modality, found.reason) == (None, "DjVu document: install djvutxt (djvulibre) to have it read")


@pytest.mark.skipif(not all(map(shutil.which, ("djvutxt", "c44", "djvused"))), reason="djvulibre is not installed")
def test_the_text_layer_is_read(tmp_path: Path) -> None:
    draw_image(["a scan"]).save(tmp_path / "a.ppm")
    subprocess.run(["c44", "a.ppm", "a.djvu"], cwd=tmp_path, check=True)
    with pytest.raises(Rejected, match="no text") as rejection:
        read(tmp_path / "a.djvu", ingest_params(ocr="never"))
    assert rejection.value.not_read == {"pages": 1}
    (tmp_path / "layer").write_text('(page 0 0 99 99 "the text of the scan")')
    subprocess.run(["djvused", "a.djvu", "-e", "select 1; set-txt layer; save"], cwd=tmp_path, check=True)
    extraction = read(tmp_path / "a.djvu", ingest_params(ocr="never"))
    assert (extraction.text, extraction.places) == ("the text of the scan", [(0, "p. 1")])
    assert extraction.extractor == f"text 5 (djvu, {djvu.version()})"
    assert djvu.version().startswith("djvutxt 3.")
    (tmp_path / "b.djvu").write_bytes((tmp_path / "a.djvu").read_bytes()[:60])
    with pytest.raises(Rejected, match="damaged document"):
        read(tmp_path / "b.djvu", ingest_params(ocr="never"))
