from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from llm.data.ingest.discover import Entry, discover, ground_truth
from llm.errors import UserError


def found(folder: Path, max_bytes: float = 1e6) -> dict[str, Entry]:
    return {entry.source: entry for entry in discover(folder, max_bytes)}


def test_every_kind_of_file_has_an_entry(tmp_path: Path) -> None:
    root = tmp_path / "source"
    for folder in (".git/objects", ".hidden", "a/b", "empty"):
        (root / folder).mkdir(parents=True)
    for name in ("a/b/x.py", "a/notes", ".git/objects/1", ".hidden/y.py", ".gitkeep", "README.md"):
        (root / name).write_text("print('hello')\n")
    (root / "zero.txt").touch()
    (root / "big.txt").write_bytes(b"x" * 2_000_000)
    (tmp_path / "outside.txt").write_text("secret")
    (root / "link.txt").symlink_to(tmp_path / "outside.txt")
    (root / "loop").symlink_to(root)
    (root / "broken").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket"))
    entries = found(root)
    assert list(entries) == sorted(entries)
    assert {name: entry.reason for name, entry in entries.items()} == {
        ".git": "version control data",
        ".gitkeep": "hidden file",
        ".hidden/y.py": "hidden file",
        "README.md": "",
        "a/b/x.py": "",
        "a/notes": "",
        "big.txt": "too large: 1.9 MiB, and ingest.max_file_mib is 0.953674",
        "broken": "broken symbolic link: links are not followed",
        "link.txt": "symbolic link: links are not followed",
        "loop": "symbolic link: links are not followed",
        "pipe": "not a regular file: pipe",
        "socket": "not a regular file: socket",
        "zero.txt": "empty file",
    }


def test_folders_are_read_at_any_depth(tmp_path: Path) -> None:
    folders = [tmp_path / "d"]
    for _ in range(1200):
        folders.append(folders[-1] / "d")
    for folder in folders:
        folder.mkdir()
    (folders[-1] / "a.txt").write_text("deep down")
    try:
        assert found(tmp_path) == {"d/" * 1201 + "a.txt": Entry("d/" * 1201 + "a.txt", str(folders[-1] / "a.txt"), 9)}
    finally:  # what pytest could not do
        (folders[-1] / "a.txt").unlink()
        for folder in reversed(folders):
            folder.rmdir()


def test_what_cannot_be_opened_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "secret.txt").write_text("x" * 200)
    scandir, lstat = os.scandir, os.lstat

    # The tests may run as root, whom no permission stops.
    def denied(path: Path) -> bool:
        return Path(path).name in {"locked", "secret.txt"}

    def fake_scandir(path: Path) -> object:
        if denied(path):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def fake_lstat(path: Path) -> os.stat_result:
        if denied(path):
            raise PermissionError(13, "Permission denied", str(path))
        return lstat(path)

    monkeypatch.setattr(os, "scandir", fake_scandir)
    monkeypatch.setattr(os, "lstat", fake_lstat)
    entries = found(tmp_path)
    assert {(name, entry.reason, entry.failed) for name, entry in entries.items()} == {
        ("locked", "cannot be read: Permission denied", True),
        ("secret.txt", "cannot be read: Permission denied", True),
    }


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))).write_text("x")
    assert list(found(tmp_path)) == ["caf\\xe9.txt"]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3://foo/bar", "cannot be read: .*s3fs"),
        ("nosuch://foo", "cannot be read: .*nosuch"),
        ("memory://none/at/all", "does not exist, or cannot be reached"),
    ],
)
def test_a_url_that_cannot_be_read_is_one_line(url: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as where it is not installed
    with pytest.raises(UserError, match=f"^ingest.source: {url} {problem}"):
        discover(url, 1e6)


def test_ground_truth_by_path_or_by_a_name_that_is_unique() -> None:
    names = [
        "a.pdf",
        "b/c.pdf",
        "d/e.png",
        "f/e.png",
        "truth/b/c.pdf.txt",
        "truth/a.pdf.txt",
        "truth/e.png.txt",
        "truth/own.txt",
    ]
    assert ground_truth([Entry(name, name) for name in names]) == {
        "truth/b/c.pdf.txt": "b/c.pdf",
        "truth/a.pdf.txt": "a.pdf",
    }
    assert ground_truth([Entry(name, name) for name in ("b/c.pdf", "truth/c.pdf.txt")]) == {
        "truth/c.pdf.txt": "b/c.pdf"
    }
