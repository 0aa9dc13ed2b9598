#!/usr/bin/env bash
# Guess: tests marked with pytest.mark.xdist_group("g") run in one worker under --dist loadgroup, whatever pytest it is.
# Seen (pytest 9.2.0 with pytest-xdist 3.8.0): the tests of a group are dealt out to all workers, and nothing warns. With
# pytest 9.1.1 the group stays together. pytest-xdist marks groups by assigning to Item._nodeid, which 9.2 no longer reads.
# What to do: require pytest<9.2 until pytest-xdist follows.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cat > "$folder/test_group.py" <<'P'
import os
import time

import pytest

pytestmark = pytest.mark.xdist_group("g")


@pytest.mark.parametrize("i", range(8))
def test_worker(i):
    time.sleep(0.2)
    with open(os.environ["SEEN"], "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + "\n")
P
python3 -m venv "$folder/venv"
workers() {
  "$folder/venv/bin/pip" install -q --disable-pip-version-check "pytest==$1" pytest-xdist==3.8.0 2>"$folder/log" || { cat "$folder/log"; exit 1; }
  rm -f "$folder/seen"
  (cd "$folder" && SEEN="$folder/seen" venv/bin/python -m pytest -q -n 2 --dist loadgroup -p no:cacheprovider test_group.py >/dev/null)
  sort -u "$folder/seen" | wc -l
}
old=$(workers 9.1.1); new=$(workers 9.2.0)
echo "workers that ran one group: $old with pytest 9.1.1, $new with pytest 9.2.0"
[ "$old" = 1 ] && [ "$new" = 2 ]
