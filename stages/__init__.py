"""The pipeline's stages: each reads params.yaml, calls the library, and writes what dvc.yaml declares."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from llm.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Run a stage; a mistake that its user can mend is one line and exit code 1 instead of a traceback.

    The processes that torchrun starts on one machine see the same parameters and files: the first of them says it.
    """
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # so that DVC shows lines as they come
    if "RANK" in os.environ:  # torchrun sets it
        _leave(_exit_code(main))
    _run(main)


def _run(main: Callable[[], None]) -> None:
    try:
        main()
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"error: {error}" if os.environ.get("LOCAL_RANK", "0") == "0" else 1)


def _exit_code(main: Callable[[], None]) -> int:
    """Run a stage as the interpreter would run a script: with what it prints and the code it gives in the end."""
    try:
        _run(main)
    except SystemExit as error:
        if not isinstance(error.code, str):
            return error.code or 0
        print(error.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _leave(code: int) -> None:
    """End the process without the interpreter's clean-up.

    There, a process of several can hang for good: threads of torch.distributed that still free tensors wait for the
    interpreter's lock, and it for them (github.com/pytorch/pytorch/issues/190489).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
