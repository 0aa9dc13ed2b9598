"""What identifies the run that a project folder holds, for the model card."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path


def run_origin(project: Path) -> dict[str, str]:
    """The git commit and the hash of dvc.lock of a project folder, where it has them."""
    origin: dict[str, str] = {}
    try:
        commit = _git(project, "rev-parse", "HEAD")
        changed = _git(project, "status", "--porcelain", "--untracked-files=no", "--", "llm", "stages", "params.yaml")
        origin["git commit"] = commit + (" (with uncommitted changes)" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        pass  # not a repository, or no git
    lock = project / "dvc.lock"
    if lock.is_file():
        origin["dvc.lock sha256 at export"] = hashlib.sha256(lock.read_bytes()).hexdigest()
    return origin


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
