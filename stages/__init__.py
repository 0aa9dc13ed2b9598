"""The pipeline's stages: each reads params.yaml, calls the library, and writes what dvc.yaml declares."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from llm.errors import UserError


def run(main: Callable[[], None]) -> None:
    """Run a stage; a mistake that its user can mend is one line and exit code 1 instead of a traceback.

    The processes that torchrun starts on one machine see the same parameters and files: the first of them says it.
    """
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # so that DVC shows lines as they come
    try:
        main()
    except (UserError, FileNotFoundError) as error:
        sys.exit(f"error: {error}" if os.environ.get("LOCAL_RANK", "0") == "0" else 1)
