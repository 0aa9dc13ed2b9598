#!/usr/bin/env bash
# Guess: email.policy.default, told nothing of a header's charset, keeps its raw 8-bit bytes for the caller to decode, as the
# older compat32 policy does.
# Seen (Python 3.11.7): msg["subject"] has U+FFFD in their place, and the bytes are gone from the header object.
# msg.raw_items() still has them as surrogates, which encode("utf-8", "surrogateescape") turns back into the bytes.
set -euo pipefail
python3 - <<'P'
import sys
from email import policy
from email.parser import BytesParser

data = b"Subject: " + "\u041f\u0440\u0438\u0432\u0435\u0442".encode("koi8-r") + b"\nFrom: a@example.org\n\nbody\n"
message = BytesParser(policy=policy.default).parsebytes(data)
subject = message["subject"]
raw = dict(message.raw_items())["Subject"].encode("utf-8", "surrogateescape")
print("Python", sys.version.split()[0], "| msg['subject']:", ascii(str(subject)), "| raw_items decoded:", raw.decode("koi8-r"))
assert set(str(subject)) == {"\ufffd"}
assert raw.decode("koi8-r") == "\u041f\u0440\u0438\u0432\u0435\u0442"
P
