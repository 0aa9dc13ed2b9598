"""The pipeline's stages: each reads params.yaml, calls the library, and writes what dvc.yaml declares."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from llm.config.loading import ShapeOf
from llm.errors import UserError
from llm.escaping import printable
from llm.stage_inputs import StageInputs

_STARTED_NS = time.time_ns()  # before the imports of the stage itself
PATIENCE_S = 5.0  # after this, a process that torchrun started reports an error that only it has seen


def run_stage(main: Callable[[StageInputs], None], shape_of: ShapeOf | None = None) -> None:
    """Run a stage as `run` does; it fails if what it reads changes meanwhile (llm.stage_inputs).

    Args:
        main: the stage; the name of its file is its name in dvc.yaml.
        shape_of: as for `llm.config.load_params`, where the stage uses the model's shape.
    """
    run(functools.partial(_watched, main, shape_of))


def _watched(main: Callable[[StageInputs], None], shape_of: ShapeOf | None) -> None:
    stage = Path(inspect.getfile(main)).stem
    is_watched = os.environ.get("RANK", "0") == "0"  # torchrun sets it
    inputs = StageInputs(stage, _STARTED_NS, is_watched, shape_of)
    try:
        main(inputs)
    except SystemExit as end:  # the processes that the stage has started are done
        if end.code:
            raise
    inputs.check()


def run(main: Callable[[], None]) -> None:
    """Run a program; an error that its user can fix is one line and exit code 1 instead of a traceback."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # so that DVC shows lines as they come
    if "RANK" in os.environ:  # torchrun sets it
        _leave(_exit_code(main))
    _run(main)


def _run(main: Callable[[], None]) -> None:
    try:
        main()
    except (UserError, FileNotFoundError) as error:
        if os.environ.get("LOCAL_RANK", "0") != "0":
            # Most errors are seen by all of a machine's processes. The first reports it, and torchrun ends the others.
            time.sleep(PATIENCE_S)
        sys.exit(printable(f"error: {error}"))
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        sys.exit(130)


def _exit_code(main: Callable[[], None]) -> int:
    """Run a stage as the interpreter runs a script: print what it would print, and return its exit code."""
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

    During the clean-up, one of several processes can hang forever: threads of torch.distributed that still free tensors
    wait for the interpreter's lock, and it waits for them (github.com/pytorch/pytorch/issues/190489).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
