"""Declare that today's files compute the same numbers as older code: rewrites llm/training/equal_code.json.

    python -m tests.training.equal_code

Run it when files that decide the numbers (llm.training.fingerprint.DECISIVE) have been edited and the losses of a
golden run, a short one in fp32 on a CPU, are the same to the last bit before and after. An interrupted run of the older
code then goes on under today's. After an edit that changes numbers, delete the entries instead.
"""

from __future__ import annotations

import json

from llm.files import write_json
from llm.training.fingerprint import file_hashes
from llm.training.migrations import EQUAL_CODE_PATH


def main() -> None:
    older = json.loads(EQUAL_CODE_PATH.read_text(encoding="utf-8"))
    write_json(EQUAL_CODE_PATH, {code: file_hashes() for code in older})


if __name__ == "__main__":
    main()
