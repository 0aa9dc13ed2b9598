from __future__ import annotations

import struct
from pathlib import Path

import pytest

from llm.data.readers.identify import identify
from llm.data.readers.office.compound_file import PASSWORD, compound_kind
from tests.support.compound_files import write_compound_file

WORD = b"\xec\xa5" + struct.pack("<H", 0xC1) + bytes(6)
POWERPOINT = struct.pack("<HHII", 0, 0xFF6, 0x14, 0x14)


@pytest.mark.parametrize(
    ("streams", "kind"),
    [
        ({"WordDocument": WORD + bytes(600)}, "doc"),
        ({"WORKBOOK": b"\x09\x08"}, "xls"),
        ({"Book": b"\x09\x08"}, "xls"),
        ({"PowerPoint Document": b"x" * 5000, "Current User": POWERPOINT + struct.pack("<I", 0xE391C05F)}, "ppt"),
        ({"Quill/CONTENTS": b"x", "Contents": b"x"}, "pub"),
        ({"VisioDocument": b"x"}, "vsd"),
        ({"CONTENTS": b"CHNKWKS \x04"}, "wps"),
        ({"PerfectOffice_MAIN": b"\xffWPC"}, "wpd"),
        ({"__properties_version1.0": bytes(32)}, "outlook"),
    ],
)
def test_the_streams_tell_the_kind(tmp_path: Path, streams: dict[str, bytes], kind: str) -> None:
    assert compound_kind(write_compound_file(tmp_path / "a.tmp", streams)) == (kind, "")


@pytest.mark.parametrize(
    ("streams", "reason"),
    [
        ({"EncryptedPackage": b"x", "EncryptionInfo": b"x"}, PASSWORD),
        ({"WordDocument": WORD + struct.pack("<H", 0x100) + bytes(600)}, PASSWORD),
        ({"PowerPoint Document": b"x", "Current User": POWERPOINT + struct.pack("<I", 0xF3D1C4DF)}, PASSWORD),
        ({"Props12": b"x"}, "unsupported format: Microsoft Project plan"),
        ({"something": b"x"}, "unsupported format: compound file (OLE2)"),
    ],
)
def test_what_is_not_read_is_named(tmp_path: Path, streams: dict[str, bytes], reason: str) -> None:
    for name in ("a.doc", "a.docx", "a.txt"):
        found = identify(str(write_compound_file(tmp_path / name, streams)), name)
        assert (found.modality, found.container, found.reason) == (None, None, reason)


def test_a_cut_off_file_is_damaged(tmp_path: Path) -> None:
    path = write_compound_file(tmp_path / "a.doc", {"WordDocument": WORD + bytes(9000)})
    for n_bytes in (8, 100, 512, 600):
        (tmp_path / "b.doc").write_bytes(path.read_bytes()[:n_bytes])
        assert compound_kind(tmp_path / "b.doc")[1].startswith("damaged document: ")
