from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from llm.data.readers.file_types import classify, markup_kind, zipped_kind


@pytest.mark.parametrize(
    ("name", "head", "modality"),
    [
        ("notes.txt", b"%PDF-1.7", "pdf"),
        ("notes", b"\0\0junk before it\n%PDF-1.4\n1 0 obj\n", "pdf"),
        ("a.pdf", b"%\0\x01\x02 damaged", "pdf"),
        ("a.pdf", b"a text that was named wrongly", "text"),
        ("pdf.py", b"HEAD = b'%PDF-1.7'  # how every PDF begins", "code"),
        ("scan.png", b"a text that was named wrongly", "text"),
        ("scan.png", b"\0\x01\x02\x03", "image"),
        ("a.py", b"\x89PNG\r\n\x1a\n", "image"),
        ("x", b"\x89PNG\r\n\x1a\n", "image"),
        ("x.txt", b"RIFF0000WEBPVP8 ", "image"),
        ("IMG_0001", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "image"),
        ("x.txt", b"BM is how this begins", "text"),
        ("x.bmp", b"BM00", "image"),
        ("x.py", b"import os", "code"),
        ("x", b"#!/bin/sh\n", "code"),
        ("x", b"hello", "text"),
        ("x.html", b"<p>", "text"),
        ("x.doc", b"{\\rtf1\\ansi", "text"),
        ("a.gz", b"\x1f\x8b\x08", None),
        ("a.mp3", b"ID3\x03\0\0\0\0", None),
        ("a.txt", b"ID3 is an algorithm that builds trees.", "text"),
        ("a.txt", b"Rar! is how such an archive begins.", "text"),
        ("a.txt", b"PKCS is a family of standards.", "text"),
        ("a.ps", b"%!PS-Adobe-3.0\n", None),
    ],
)
def test_content_decides_before_the_name(name: str, head: bytes, modality: str | None) -> None:
    assert classify(name, head)[0] == modality


@pytest.mark.parametrize(
    ("name", "head", "kind"),
    [
        ("a.htm", b"<p>one", "html"),
        ("saved page", b"\xef\xbb\xbf<!-- saved -->\n<!DOCTYPE HTML>\n", "html"),
        ("a.txt", b'<?xml version="1.0"?>\n<html xmlns="x">', "html"),
        ("a.php", b"<!doctype html>\n<?php ?>", None),
        ("a.html", b"no tag in it", None),
        ("a.html", b"\0\1\2", None),
        ("a.xml", b"<a/>", "xml"),
        ("feed", b'<?xml version="1.0"?><rss/>', "xml"),
        ("a.svg", b'<?xml version="1.0"?><svg/>', "svg"),
        ("drawing", b'<?xml version="1.0"?>\n<!-- made -->\n<svg xmlns="s">', "svg"),
        ("a.fb2", b"<FictionBook>", "fb2"),
        ("book.xml", b'<?xml version="1.0"?>\n<FictionBook xmlns="f">', "fb2"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,000\nOne", "subtitles"),
        ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\nOne".encode("utf-16"), "subtitles"),
        ("a.ass", b"\xef\xbb\xbf[Script Info]\n", "subtitles"),
        ("a.srt", b"notes on strings", None),
        ("a.ics", b"BEGIN:VCALENDAR\n", "address book"),
        ("a.vcf", b"BEGIN:VCARD\n", "address book"),
        ("variants.vcf", b"##fileformat=VCFv4.2\n", None),
        ("a.fodt", b'<?xml?>\n<office:document xmlns:office="urn:oasis:names:tc:opendocument:x">', "flat opendocument"),
        ("a.ipynb", b'{"cells": []}', "ipynb"),
        ("a.csv", b"a,b\n1,2\n", "table"),
        ("a.csv", b"\0\1", None),
        ("a.md", b"# Title\n", None),
        ("letter.doc", b"{\\rtf1\\ansi", "rtf"),
    ],
)
def test_kinds_of_text_with_structure(name: str, head: bytes, kind: str | None) -> None:
    assert markup_kind(name, head) == kind


EPUB = "application/epub+zip"
ODF = "application/vnd.oasis.opendocument."
OFFICE = "unsupported format: office document"


@pytest.mark.parametrize(
    ("name", "members", "kind", "reason"),
    [
        ("x.docx", {"[Content_Types].xml": "", "word/document.xml": ""}, "docx", ""),
        ("x.zip", {"word/document.xml": "", "[Content_Types].xml": ""}, "docx", ""),
        ("x.pptm", {"[Content_Types].xml": "", "ppt/presentation.xml": "", "ppt/embeddings/a.xlsx": ""}, "pptx", ""),
        ("x", {"[Content_Types].xml": "", "xl/workbook.xml": ""}, "xlsx", ""),
        ("x.vsdx", {"[Content_Types].xml": "", "visio/document.xml": ""}, "vsdx", ""),
        ("x.xlsx", {"[Content_Types].xml": "", "xl/workbook.bin": ""}, "xlsb", ""),
        ("x.oxps", {"[Content_Types].xml": "", "Documents/1/FixedDoc.fdoc": ""}, None, OFFICE),
        ("x.numbers", {"index.xml": "", "buildVersionHistory.plist": ""}, "numbers", ""),
        ("x", {"index.apxl": "", "buildVersionHistory.plist": ""}, "key", ""),
        ("x.zip", {"index.xml": "", "preview.jpg": ""}, None, ""),
        ("x", {"mimetype": EPUB, "OEBPS/a.xhtml": ""}, "epub", ""),
        ("x", {"OEBPS/a.xhtml": "", "META-INF/container.xml": ""}, "epub", ""),
        ("x.odp", {"mimetype": f"{ODF}presentation", "content.xml": ""}, "odt", ""),
        ("x.ods", {"content.xml": "", "mimetype": f"{ODF}spreadsheet"}, "odt", ""),
        ("x.jar", {"META-INF/MANIFEST.MF": ""}, None, ""),
        ("x.zip", {"course/ppt/slides/week1.txt": "", "ppt/slides/week2.txt": ""}, None, ""),
        ("x.zip", {"notes.txt": "", "mimetype": "text/plain and other types"}, None, ""),
        ("x.zip", {"book.epub": f"mimetype{EPUB} META-INF/container.xml word/document.xml"}, None, ""),
        ("x.zip", {}, None, ""),
    ],
)
def test_the_members_of_a_zip_file_decide(
    tmp_path: Path, name: str, members: dict[str, str], kind: str | None, reason: str
) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    assert zipped_kind(tmp_path / name) == (kind, reason)


def test_a_damaged_zip_file_is_what_it_is_called(tmp_path: Path) -> None:
    for name, kind in (("a.docx", "docx"), ("a.odp", "odt"), ("a.zip", None)):
        (tmp_path / name).write_bytes(b"PK\x03\x04" + bytes(100))
        assert zipped_kind(tmp_path / name) == (kind, "")


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "MP4, QuickTime or 3GP video or audio"),
        (b"RIFF\x24\x08\0\0WAVEfmt \x10\0\0\0", "WAV audio"),
        (b"A book".ljust(60, b"\0") + b"BOOKMOBI\0\0", "Mobipocket book"),
        (b"MZ\x90\0\3\0\0\0\4\0\0\0\xff\xff", "Windows program or library"),
        (b"\x1f\x9d\x90\0\1\2\3\4\5\6", "Unix compress file (unpack it with uncompress)"),
        (b"!BDN\0\0\0\0SM\0\0\x17\0", "Outlook mailbox (PST)"),
        (b"?_\3\0\x80\4\0\0\xff\xff\xff\xff\xd0\x34\1\0", "Windows help (HLP)"),
        (b"ZIM\4\6\0\1\0" + bytes(range(16)), "offline encyclopedia (ZIM)"),
        (b"\xde\x12\4\x95\0\0\0\0\2\0\0\0\x1c\0\0\0", "compiled translations (MO)"),
    ],
)
def test_formats_without_a_reader_are_named(head: bytes, name: str) -> None:
    assert classify("x.bin", head) == (None, f"unsupported format: {name}")


@pytest.mark.parametrize("write", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_tables_are_named(tmp_path: Path, write: Callable[..., pa.ipc.RecordBatchWriter]) -> None:
    table = pa.table({"text": ["a text"], "n": [1]})
    with write(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    reason = "unsupported format: Arrow or Feather table (save it as Parquet)"
    assert classify("a.arrow", (tmp_path / "a.arrow").read_bytes()) == (None, reason)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-8", "cp1252", "shift_jis"])
@pytest.mark.parametrize(
    "start", ["", "MZ", "ID3", "L", "AC1015", "8BPS", "OTTO", "!BDN", "CDF", "GGUF", "GIF", "BM", "ZIM", "?_", "ARROW1"]
)
def test_a_text_is_no_other_format(encoding: str, start: str) -> None:
    head = f"{start} is how a text may begin, and then it goes on for a while.\n".encode(encoding)
    assert classify("notes", head)[0] in ("text", "code")
