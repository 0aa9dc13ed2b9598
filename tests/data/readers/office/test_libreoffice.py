"""Old formats are read through LibreOffice, which here also writes them."""

from __future__ import annotations

import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from docx import Document
from pptx import Presentation

from llm.data.ingest.tasks import result_key
from llm.data.readers.base import Rejected
from llm.data.readers.identify import identify
from llm.data.readers.office import libreoffice
from llm.data.readers.text import read
from tests.support.compound_files import write_compound_file
from tests.support.files import ingest_params

PARAMS = ingest_params(ocr="never")
needs_libreoffice = pytest.mark.skipif(not libreoffice.version(), reason="LibreOffice is not installed")


def saved_as(path: Path, suffix: str) -> Path:
    """The document in an old format, as LibreOffice writes it."""
    command = ["soffice", f"-env:UserInstallation={(path.parent / 'writer').as_uri()}", "--headless"]
    command += ["--convert-to", suffix, "--outdir", str(path.parent / "old"), str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return path.parent / "old" / f"{path.stem}.{suffix}"


@needs_libreoffice
def test_word_97(tmp_path: Path) -> None:
    document = Document()
    document.add_heading("Wasserstände", 1)
    document.add_paragraph("Der Pegel stieg.")
    table = document.add_table(2, 2, style="Table Grid")
    for cell, text in zip((*table.rows[0].cells, *table.rows[1].cells), ("Monat", "Pegel", "Mai", "4.3"), strict=True):
        cell.text = text
    document.add_paragraph("Dann fiel er.")
    document.save(str(tmp_path / "a.docx"))
    path = saved_as(tmp_path / "a.docx", "doc").rename(tmp_path / "letter.txt")  # the name tells nothing
    found = identify(str(path), "letter.txt")
    assert (found.modality, found.program) == ("text", libreoffice.version())
    extraction = read(path, PARAMS)
    assert extraction.text == "Wasserstände\n\nDer Pegel stieg.\n\nMonat\tPegel\nMai\t4.3\n\nDann fiel er."
    assert extraction.extractor == f"text 5 (doc, {libreoffice.version()})"


@needs_libreoffice
def test_powerpoint_97_and_binary_drawings(tmp_path: Path) -> None:
    show = Presentation()
    for title in ("first", "second"):
        show.slides.add_slide(show.slide_layouts[5]).shapes.title.text = title
    show.save(str(tmp_path / "a.pptx"))
    extraction = read(saved_as(tmp_path / "a.pptx", "ppt"), PARAMS)
    assert (extraction.text, extraction.places) == ("first\n\nsecond", [(0, "slide 1"), (7, "slide 2")])


@needs_libreoffice
def test_nothing_outside_the_document_is_read(tmp_path: Path) -> None:
    """The document links to a picture on a server, and includes a file of the user's."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "secret.txt").write_text("the secret")
    office = 'xmlns:{0}="urn:oasis:names:tc:opendocument:xmlns:{0}:1.0"'
    names = " ".join(office.format(name) for name in ("office", "text", "drawing"))
    (tmp_path / "a.fodt").write_text(
        f'<office:document {names} xmlns:xlink="http://www.w3.org/1999/xlink" office:version="1.2" '
        'office:mimetype="application/vnd.oasis.opendocument.text"><office:body><office:text>'
        f'<text:section text:name="one"><text:section-source xlink:href="{(tmp_path / "secret.txt").as_uri()}"/>'
        "<text:p>what was there</text:p></text:section><text:p>a letter"
        f'<drawing:frame><drawing:image xlink:href="http://127.0.0.1:{server.server_port}/a.png"/></drawing:frame>'
        "</text:p></office:text></office:body></office:document>"
    )
    try:
        text = libreoffice._convert(tmp_path / "a.fodt", "txt").read_text()  # type: ignore[union-attr]
    finally:
        server.shutdown()
    assert "a letter" in text
    assert "the secret" not in text
    assert asked == []


@needs_libreoffice
def test_a_document_that_libreoffice_cannot_read_is_damaged(tmp_path: Path) -> None:
    write_compound_file(tmp_path / "a.ppt", {"PowerPoint Document": b"\1" * 5000, "Current User": bytes(20)})
    with pytest.raises(Rejected, match="damaged document: LibreOffice does not read it as a PowerPoint 97"):
        read(tmp_path / "a.ppt", PARAMS)


def test_without_libreoffice_the_reason_says_what_would_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libreoffice, "_program", lambda: "")
    monkeypatch.setattr(libreoffice, "version", lambda: "")
    write_compound_file(tmp_path / "a.doc", {"WordDocument": b"\xec\xa5\xc1\0" + bytes(600)})
    (tmp_path / "a.wpd").write_bytes(b"\xffWPC" + bytes(100))
    names = {"a.doc": "Word 97 document", "a.wpd": "WordPerfect document"}
    for name, shown in names.items():
        found = identify(str(tmp_path / name), name)
        assert (found.modality, found.reason) == (None, f"{shown}: install LibreOffice to have it read")
        with pytest.raises(Rejected, match="install LibreOffice"):
            read(tmp_path / name, PARAMS)


def test_another_version_is_another_result() -> None:
    keys = {result_key("0" * 64, "a.doc", "text", None, PARAMS, None, program) for program in ("", "LO 7", "LO 8")}
    assert len(keys) == 3
