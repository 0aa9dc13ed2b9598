"""What the plain install brings may be used and passed on with a project under the Apache License."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

# Packages whose metadata name the GPL or AGPL, and the words in them that give a choice or an exception.
CHOICES = {
    "asyncssh": "EPL-2.0 OR",
    "dulwich": "Apache-2.0 OR",
    "grandalf": "EPLv1",
    "pygit2": "with linking exception",
    "pyphen": "MPL 1.1",
    "tld": "MPL-1.1 OR",
}
GPL = re.compile(r"(?<![A-Za-z])A?GPL|(?<!Lesser )(?<!Library )General Public License|Affero", re.IGNORECASE)


def plain_install() -> dict[str, metadata.Distribution]:
    """All that `pip install folder-to-llm` brings on this system, the extras left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [Requirement(line) for line in project["dependencies"]]
    found: dict[str, metadata.Distribution] = {}
    seen = set()
    while waiting:
        requirement = waiting.pop()
        extras = requirement.extras or {""}
        name = canonicalize_name(requirement.name)
        if (name, frozenset(extras)) in seen:
            continue
        seen.add((name, frozenset(extras)))
        found[name] = metadata.distribution(name)
        waiting += [
            inner
            for inner in map(Requirement, found[name].requires or ())
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return found


def license_of(distribution: metadata.Distribution) -> str:
    """What a package's metadata say of its license; of a license's whole text its first line."""
    found = distribution.metadata
    text = (found.get("License") or "").strip().partition("\n")[0]
    classifiers = [line for line in found.get_all("Classifier") or [] if line.startswith("License ::")]
    return "; ".join(filter(None, [found.get("License-Expression"), text, *classifiers]))


def test_no_dependency_is_under_the_gpl_alone() -> None:
    licenses = {name: license_of(distribution) for name, distribution in plain_install().items()}
    assert len(licenses) > 50
    assert [name for name, text in licenses.items() if not text] == []
    named = {name: text for name, text in licenses.items() if GPL.search(text)}
    refused = {name: text for name, text in named.items() if CHOICES.get(name, "no choice") not in text}
    assert not refused, f"these may not come with the plain install; make each an extra: {refused}"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("GPL-3.0-or-later", True),
        ("AGPLv3", True),
        ("License :: OSI Approved :: GNU General Public License v3 (GPLv3)", True),
        ("GNU Affero General Public License v3", True),
        ("LGPL-2.1-or-later", False),
        ("GNU Lesser General Public License v2 or later", False),
        ("MIT", False),
    ],
)
def test_the_gpl_is_recognized(text: str, named: bool) -> None:
    assert bool(GPL.search(text)) == named
