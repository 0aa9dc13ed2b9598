"""Small office documents, written member by member."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
R = 'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_XMLNS = 'xmlns="http://schemas.openxmlformats.org/package/2006/relationships"'
PACKAGE_RELS = (
    f'<Relationships {_XMLNS}><Relationship Id="main" Type="{_RELATIONS}/officeDocument" Target="{{}}"/></Relationships>'
)


def relations(targets: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """The relations of a part from kinds to targets; the kinds are the ids as well, where they are given as a mapping."""
    pairs = [(kind, kind, target) for kind, target in targets.items()] if isinstance(targets, Mapping) else [
        (f"r{n}", kind, target) for n, (kind, target) in enumerate(targets)
    ]  # fmt: skip
    links = (f'<Relationship Id="{id_}" Type="{_RELATIONS}/{kind}" Target="{target}"/>' for id_, kind, target in pairs)
    return f"<Relationships {_XMLNS}>{''.join(links)}</Relationships>"


def write_zip(path: Path, members: Mapping[str, str]) -> Path:
    """A zip file of these members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path
