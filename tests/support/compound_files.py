"""Compound files (MS-CFB), written from a mapping, and Outlook messages (MS-OXMSG) in them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

_SECTOR, _MINI, _CUTOFF = 512, 64, 4096
_END, _FREE, _FAT, _NONE = 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFD, 0xFFFFFFFF


def write_compound_file(path: Path, streams: Mapping[str, bytes]) -> Path:
    """A compound file of these streams; "folder/name" is a stream in a storage."""
    chain: list[int] = []  # the FAT
    sectors: list[bytes] = []

    def place(data: bytes) -> int:
        """Append data as a chain of sectors; returns the first."""
        pieces = [data[i : i + _SECTOR].ljust(_SECTOR, b"\0") for i in range(0, len(data), _SECTOR)]
        first = len(sectors)
        sectors.extend(pieces)
        chain.extend([*range(first + 1, first + len(pieces)), _END])
        return first

    minis, mini_chain = b"", []
    starts = {}
    for name, data in streams.items():
        if len(data) >= _CUTOFF:
            starts[name] = place(data)
        elif data:
            starts[name] = len(minis) // _MINI
            n = -(-len(data) // _MINI)
            mini_chain += [*range(starts[name] + 1, starts[name] + n), _END]
            minis += data.ljust(n * _MINI, b"\0")
    root_start = place(minis) if minis else _END
    mini_fat = struct.pack(f"<{len(mini_chain)}I", *mini_chain)
    mini_fat_start = place(mini_fat.ljust(-(-len(mini_fat) // _SECTOR) * _SECTOR, b"\xff")) if mini_chain else _END

    storages = sorted({name.rpartition("/")[0] for name in streams if "/" in name})
    entries = ["", *storages, *streams]  # the root, then all others
    ids = {name: n for n, name in enumerate(entries)}

    def inside(parent: str) -> list[str]:
        found = [name for name in entries[1:] if name.rpartition("/")[0] == parent]
        return sorted(found, key=lambda name: (len(name), name.upper()))

    following = {}
    for parent in ("", *storages):
        names = inside(parent)
        following |= dict(zip(names, [*(ids[name] for name in names[1:]), _NONE], strict=True))
    directory = b""
    for name in entries:
        kind = 5 if not name else 1 if name in storages else 2
        shown = ("Root Entry" if not name else name.rpartition("/")[2]).encode("utf-16-le")
        child = next((ids[one] for one in inside(name)), _NONE) if kind != 2 else _NONE
        size = len(minis) if not name else len(streams.get(name, b""))
        start = root_start if not name else starts.get(name, _END if kind == 2 else 0)
        directory += shown.ljust(64, b"\0") + struct.pack(
            "<HBBIII16xI16xIQ", len(shown) + 2, kind, 1, _NONE, following.get(name, _NONE), child, 0, start, size
        )
    empty = bytes(64) + struct.pack("<HBBIII16xI16xIQ", 0, 0, 0, _NONE, _NONE, _NONE, 0, 0, 0)
    directory += empty * (-len(entries) % 4)
    directory_start = place(directory)

    n_fat = 1
    while n_fat * _SECTOR // 4 < len(chain) + n_fat:
        n_fat += 1
    fat_start = len(sectors)
    chain += [_FAT] * n_fat
    fat = struct.pack(f"<{len(chain)}I", *chain).ljust(n_fat * _SECTOR, b"\xff")
    fats = [*range(fat_start, fat_start + n_fat)]
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + struct.pack(
        "<16xHHHHH6xIIIIIIIII", 0x3E, 3, 0xFFFE, 9, 6, 0, n_fat, directory_start, 0, _CUTOFF,
        mini_fat_start, -(-len(mini_fat) // _SECTOR), _END, 0,
    )  # fmt: skip
    header += struct.pack("<109I", *fats, *[_FREE] * (109 - n_fat))
    path.write_bytes(header + b"".join(sectors) + fat)
    return path


def write_message(
    path: Path, properties: Mapping[int, str | bytes | int], attachments: list[Mapping[int, str | bytes | int]]
) -> Path:
    """A message of Outlook's with these properties, by their ids: texts, 32-bit numbers, and bytes.

    An attachment that has no bytes is a message in the message, or a link.
    """
    streams: dict[str, bytes] = {}

    def put(folder: str, header: bytes, values: Mapping[int, str | bytes | int]) -> None:
        entries = b""
        for id_, value in values.items():
            kind = 0x3 if isinstance(value, int) else 0x1F if isinstance(value, str) else 0x102
            if isinstance(value, int):
                entries += struct.pack("<HHIII", kind, id_, 6, value, 0)
                continue
            data = value.encode("utf-16-le") if isinstance(value, str) else value
            streams[f"{folder}__substg1.0_{id_:04X}{kind:04X}"] = data
            entries += struct.pack("<HHIII", kind, id_, 6, len(data) + 2 * (kind == 0x1F), 0)
        streams[f"{folder}__properties_version1.0"] = header + entries

    put("", struct.pack("<8xIIII8x", 0, len(attachments), 0, len(attachments)), properties)
    for number, values in enumerate(attachments):
        put(f"__attach_version1.0_#{number:08X}/", bytes(8), values)
    streams["__nameid_version1.0/__substg1.0_00020102"] = b"\0" * 16
    return write_compound_file(path, streams)
