"""The base of all errors that a user can fix: their message says what is wrong, where, and what to do."""

from __future__ import annotations


class UserError(Exception):
    """Shown as one line, without a traceback, by the stages and the command line."""
