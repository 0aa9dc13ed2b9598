"""The versions of the packages that decide documents, tokens and weights.

Worth knowing: a run keeps them with what it makes: ingest in the manifest, tokenize in tokens.json, and train, with
those of the two stages before, in the model's config.json, from where the report and the model card take them.
constraints.txt names the versions with which dvc.lock was made.
"""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Literal

Stage = Literal["ingest", "tokenize", "train"]

CONSTRAINTS_NAME = "constraints.txt"
DECISIVE: dict[Stage, tuple[str, ...]] = {
    "ingest": (
        *("pypdfium2", "pypdf", "pillow"),
        *("rapidocr", "openvino", "onnxruntime", "opencv-python-headless"),  # rapidocr brings its models
        *("trafilatura", "jusText", "lxml", "lxml_html_clean", "resiliparse", "ftfy", "python-oxmsg", "xlrd"),
        *("libarchive-c", "stream-inflate", "inflate64", "pillow-heif"),
        *("py3langid", "phonenumbers", "rensa", "pyarrow", "numpy"),
    ),
    "tokenize": ("tokenizers", "numpy"),
    "train": ("torch", "liger-kernel", "numpy"),
}


def versions(stage: Stage) -> dict[str, str]:
    """Python's version and those of a stage's decisive packages that are installed, by name."""
    return {"python": platform.python_version(), **_installed(stage)}


def other_versions(stage: Stage, constraints: Path = Path(CONSTRAINTS_NAME)) -> str:
    """A line that names the stage's decisive packages whose versions are not those of a constraints file.

    It is empty where there are none, and where there is no such file.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    if not constraints.is_file():
        return ""
    lines = constraints.read_text(encoding="utf-8").splitlines()
    requirements = [Requirement(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    # A local version such as 2.13.0+cpu is within ==2.13.0.
    wanted = {
        canonicalize_name(requirement.name): requirement.specifier
        for requirement in requirements
        if requirement.marker is None or requirement.marker.evaluate()
    }
    found = [
        f"{name} {version} (not {str(specifier).removeprefix('==')})"
        for name, version in _installed(stage).items()
        if (specifier := wanted.get(canonicalize_name(name))) and not specifier.contains(version, prereleases=True)
    ]
    if not found:
        return ""
    return (
        f"note: {', '.join(found)}: other versions than in {constraints}, with which dvc.lock was made: results may "
        f"differ; `pip install -c {constraints} -e .` installs those"
    )


def _installed(stage: Stage) -> dict[str, str]:
    found = {}
    for name in DECISIVE[stage]:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # an extra, or not made for this platform
            continue
    return found
