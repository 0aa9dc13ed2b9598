"""The base of all errors that a user can fix: their message says what is wrong, where, and what to do."""

from __future__ import annotations


class UserError(Exception):
    """Shown as one line, without a traceback, by the stages and the command line."""


class DamagedFileError(UserError):
    """A file that is not what a stage wrote: cut short, overwritten, or of another program or run."""

    def __init__(self, path: object, problem: str, stage: str):
        """Name the file, what is wrong with it, and the stage that writes it again."""
        super().__init__(f"{path}: {problem}; delete it and run `dvc repro {stage}` to write it again")
