from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm.__main__ import main
from llm.data.ingest.discover import discover
from llm.data.ingest.dvcignore import unhashable, update_dvcignore
from llm.errors import UserError
from tests.conftest import PARAMS_FILE

DVC = [sys.executable, "-m", "dvc"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    source = tmp_path / "data" / "raw"
    (source / "deep").mkdir(parents=True)
    (source / "good.txt").write_text("good")
    (source / "deep" / "broken").symlink_to("nowhere")
    (source / "round").symlink_to(".")
    os.mkfifo(source / "pi pe[1]*.txt")
    return tmp_path


def test_dvc_hashes_the_folder_once_its_bad_entries_are_listed(project: Path) -> None:
    """With real DVC: without the list it stops, with it nothing but the good file counts."""
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run([*DVC, "init", "--no-scm", "-q"], cwd=project, env=env, check=True)
    (project / "dvc.yaml").write_text("stages: {count: {cmd: 'true', deps: [data/raw]}}\n")
    assert update_dvcignore(project / "data" / "raw", project) == ["deep/broken", "pi pe[1]*.txt", "round"]
    subprocess.run([*DVC, "repro", "-q"], cwd=project, env=env, check=True, timeout=60)
    assert "nfiles: 1\n" in (project / "dvc.lock").read_text()


def test_names_that_a_line_of_utf8_cannot_hold_match_just_themselves(tmp_path: Path) -> None:
    """With real DVC, which strips the lines of .dvcignore."""
    source = tmp_path / "data" / "raw"
    names = [
        b"trail ",
        b"wide\xe3\x80\x80",
        b"new\nline",
        b"end\n",
        b"cr\r",
        b"tab\t",
        b"back\\",
        b"#",
        b"!",
        b"f\xfcr",
    ]
    (source / os.fsdecode(b"d\xf6r")).mkdir(parents=True)
    for name in names:
        (source / os.fsdecode(name)).symlink_to("nowhere")
    for name in (b"n\xe4me.md", b"d\xf6r/a.txt", b"d\xf6r/b.txt"):
        (source / os.fsdecode(name)).write_text("cannot be hashed")
    good = ["name.md", "n\u00e4me.md", "new line", "newline", "f r", "trail", "dur"]
    for name in good:
        (source / name).write_text("good")
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run([*DVC, "init", "--no-scm", "-q"], cwd=tmp_path, env=env, check=True)
    (tmp_path / "dvc.yaml").write_text("stages: {count: {cmd: 'true', deps: [data/raw]}}\n")
    listed = update_dvcignore(source, tmp_path)
    assert len(listed) == len(names) + 2
    assert {"d\\xf6r", "n\\xe4me.md", "new\\nline", "trail "} <= set(listed)
    subprocess.run([*DVC, "repro", "-q"], cwd=tmp_path, env=env, check=True, timeout=60)
    assert f"nfiles: {len(good)}\n" in (tmp_path / "dvc.lock").read_text()


def test_the_block_follows_the_folder_and_leaves_the_rest_alone(project: Path) -> None:
    source, ignore = project / "data" / "raw", project / ".dvcignore"
    ignore.write_text(".venv\n*.pyc\n")
    update_dvcignore(source, project)
    once = ignore.read_text()
    assert "/data/raw/pi\\ pe\\[1\\]\\*.txt\n" in once
    update_dvcignore(source, project)
    assert ignore.read_text() == once
    for name in ("deep/broken", "round", "pi pe[1]*.txt"):
        (source / name).unlink()
    assert update_dvcignore(source, project) == []
    assert ignore.read_text() == ".venv\n*.pyc\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_unhashable(project: Path) -> None:
    (project / "data" / "raw" / "good.txt").chmod(0)
    source = project / "data" / "raw"
    assert "good.txt" in unhashable(source, discover(source, float("inf")))


def test_a_folder_outside_the_project_is_explained(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with pytest.raises(UserError, match=r"DVC cannot hash .*: deep/broken, pi pe\[1\]\*\.txt, round$"):
        update_dvcignore(project / "data" / "raw", elsewhere)
    for number in range(10):
        (project / "data" / "raw" / f"also-{number}").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"also-9 and 3 more$"):
        update_dvcignore(project / "data" / "raw", elsewhere)
    with pytest.raises(UserError, match="is not a folder"):
        update_dvcignore(project / "none", project)


def test_a_source_in_the_home_folder_and_one_in_a_url(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=f"write the full path: {Path.home()}/papers$"):
        update_dvcignore(Path("~/papers"), tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text(PARAMS_FILE.read_text().replace("source: data/sample", "source: s3://foo/bar"))
    assert main(["source", "--file", str(params)]) == 0
    assert capsys.readouterr().out == "s3://foo/bar: nothing to prepare in a URL\n"


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC project with a cache of links that is not in it, and a folder that DVC tracks."""
    project = tmp_path_factory.mktemp("tracked") / "project"
    (project / "data" / "raw" / "deep").mkdir(parents=True)
    for name in ("one.txt", "two.txt", "deep/three.txt"):
        (project / "data" / "raw" / name).write_text(f"content of {name}")
    env = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    for command in (
        ["init", "--no-scm", "-q"],
        ["cache", "dir", "../shared"],
        ["config", "cache.type", "symlink"],
        ["add", "-q", "data/raw"],
    ):
        subprocess.run([*DVC, *command], cwd=project, env=env, check=True)
    return project


def test_links_into_the_cache_are_the_files(tracked: Path) -> None:
    source = tracked / "data" / "raw"
    assert (source / "one.txt").is_symlink()
    entries = {entry.source: entry for entry in discover(source, float("inf"))}
    assert set(entries) == {"one.txt", "two.txt", "deep/three.txt"}
    for name, entry in entries.items():
        assert (entry.reason, entry.n_bytes) == ("", len(f"content of {name}"))
        assert Path(entry.in_cache).read_text() == f"content of {name}"
    assert update_dvcignore(source, tracked) == []


def test_a_link_elsewhere_in_the_cache_or_beside_it_is_none_of_dvcs(tracked: Path, tmp_path: Path) -> None:
    shared = tracked.parent / "shared"
    (shared / "notes.txt").write_text("not put there by DVC")
    lookalike = tmp_path / "files" / "md5" / "ab" / ("c" * 30)
    lookalike.parent.mkdir(parents=True)
    lookalike.write_text("elsewhere")
    source = tracked / "links"
    source.mkdir()
    (source / "notes.txt").symlink_to(shared / "notes.txt")
    (source / "lookalike.txt").symlink_to(lookalike)
    reasons = {entry.source: entry.reason for entry in discover(source, float("inf"))}
    assert set(reasons.values()) == {"symbolic link: links are not followed"}


@pytest.mark.parametrize("problem", ["cache not mounted", "file not mounted", "folder not mounted", "not readable"])
def test_what_dvc_tracks_is_never_listed(tracked: Path, tmp_path: Path, problem: str) -> None:
    project = tmp_path / "project"
    shutil.copytree(tracked, project, symlinks=True)
    source, ignore = project / "data" / "raw", project / ".dvcignore"
    before = ignore.read_text()
    if problem == "cache not mounted":
        moved = tmp_path / "shared"
        shutil.copytree(tracked.parent / "shared", moved)
        for path in [path for path in source.rglob("*") if path.is_symlink()]:
            target = moved / path.readlink().relative_to(tracked.parent / "shared")
            path.unlink()
            path.symlink_to(target)
        moved.rename(tmp_path / "away")
    else:
        shutil.copytree(tracked.parent / "shared", tmp_path / "shared")
        (source / "two.txt").unlink()
    if problem == "file not mounted":
        (source / "two.txt").symlink_to(tmp_path / "disk" / "two.txt")
    elif problem == "folder not mounted":
        shutil.rmtree(source)
        source.mkdir()
    elif problem == "not readable":
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        (source / "two.txt").write_text("content of two.txt")
        (source / "two.txt").chmod(0)
    with pytest.raises(UserError, match=r"is tracked by DVC \(data/raw\.dvc\).*run `dvc pull`: .") as raised:
        update_dvcignore(source, project)
    assert "\n" not in str(raised.value)
    assert ignore.read_text() == before
