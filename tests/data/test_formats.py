from __future__ import annotations

import pytest

from llm.data.formats import classify, markup_kind


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
        ("x.txt", b"BM is how this begins", "text"),
        ("x.bmp", b"BM00", "image"),
        ("x.py", b"import os", "code"),
        ("x", b"#!/bin/sh\n", "code"),
        ("x", b"hello", "text"),
        ("x.html", b"<p>", "text"),
        ("x.docx", b"PK\x03\x04" + b"\0" * 26 + b"[Content_Types].xml", "text"),
        ("x.xlsx", b"PK\x03\x04" + b"\0" * 26 + b"[Content_Types].xml", "text"),
        ("x.pptm", b"PK\x03\x04" + b"\0" * 26 + b"[Content_Types].xml", "text"),
        ("x.ods", b"PK\x03\x04" + b"\0" * 26 + b"[Content_Types].xml", None),
        ("x.doc", b"{\\rtf1\\ansi", "text"),
        ("x.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", None),
        ("x.epub", b"PK\x03\x04" + b"\0" * 26 + b"OEBPS/a.xhtml", "text"),
        ("x.zip", b"PK\x03\x04" + b"\0" * 26 + b"word/document.xml", "text"),
        ("x", b"PK\x03\x04" + b"\0" * 26 + b"mimetypeapplication/epub+zip", "text"),
        ("x.jar", b"PK\x03\x04" + b"\0" * 26 + b"META-INF/MANIFEST.MF", None),
        ("a.gz", b"\x1f\x8b\x08", None),
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
        ("a.svg", b'<?xml version="1.0"?><svg/>', None),
        ("a.ipynb", b'{"cells": []}', "ipynb"),
        ("a.csv", b"a,b\n1,2\n", "table"),
        ("a.csv", b"\0\1", None),
        ("a.md", b"# Title\n", None),
        ("letter.doc", b"{\\rtf1\\ansi", "rtf"),
        ("a.zip", b"PK\x03\x04" + b"\0" * 26 + b"xl/workbook.xml", "xlsx"),
        ("a.odp", b"PK\x03\x04" + b"\0" * 26 + b"mimetypeapplication/vnd.oasis.opendocument.presentation", "odt"),
    ],
)
def test_kinds_of_text_with_structure(name: str, head: bytes, kind: str | None) -> None:
    assert markup_kind(name, head) == kind
