from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from llm.data.readers import epub
from llm.data.readers.base import Rejected
from tests.support.office import rewritten, write_epub


@pytest.fixture
def book(tmp_path: Path) -> Path:
    write_epub(tmp_path / "a.epub", ["Words one.", "Words <img src='x.png'/> two.", "Words three."])
    return tmp_path / "a.epub"


def without(path: Path, member: str) -> Path:
    target = path.with_name("without.epub")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if name != member:
                new.writestr(name, old.read(name))
    return target


def test_a_chapter_that_is_missing_costs_that_chapter(book: Path) -> None:
    plain = epub.read(without(book, "OEBPS/text/chapter 1.xhtml"))
    assert plain.text == "Chapter 0\n\nWords one.\n\nChapter 2\n\nWords three."
    assert plain.note == "missing in the document: OEBPS/text/chapter 1.xhtml"
    assert epub.read(book).not_read == {"pictures": 1}


def test_a_spine_that_names_what_is_not_in_the_list(book: Path) -> None:
    package = zipfile.ZipFile(book).read("OEBPS/content.opf").replace(b'<itemref idref="c0"/>', b'<itemref idref="x"/>')
    plain = epub.read(rewritten(book, book.with_name("b.epub"), "OEBPS/content.opf", package))
    assert plain.text.startswith("Chapter 1")
    assert plain.note == "missing in the document: chapter 'x'"


@pytest.mark.parametrize("member", ["META-INF/container.xml", "OEBPS/content.opf"])
def test_chapters_are_found_without_the_list(book: Path, member: str) -> None:
    for damaged in (without(book, member), rewritten(book, book.with_name("b.epub"), member, b"<a")):
        plain = epub.read(damaged)
        assert [line for line in plain.text.split("\n") if "Chapter" in line] == [f"Chapter {n}" for n in range(3)]
        assert member in plain.note


def test_protected_books_say_so(book: Path) -> None:
    fonts, all_of_it = "http://www.idpf.org/2008/embedding", "http://www.w3.org/2001/04/xmlenc#aes128-cbc"
    for method, is_read in ((fonts, True), (all_of_it, False)):
        with zipfile.ZipFile(book, "a") as archive:
            archive.writestr("META-INF/encryption.xml", f'<e><EncryptionMethod Algorithm="{method}"/></e>')
        if is_read:
            assert "Words one." in epub.read(book).text
        else:
            with pytest.raises(Rejected, match="encrypted document"):
                epub.read(book)
