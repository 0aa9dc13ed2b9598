from __future__ import annotations

from llm.data.readers.extraction import extract
from tests.support.files import ingest_params


def test_code_keeps_its_indentation(tmp_path) -> None:
    (tmp_path / "a.py").write_bytes(b"\n\n    x = 1\r\n\ty = 'e\xcc\x81'\r\n")
    extraction = extract(tmp_path / "a.py", "code", ingest_params())
    assert extraction.text == "    x = 1\n\ty = 'e\u0301'"
    assert extraction.language == "python"
