"""The modalities: the kinds of file that become documents, one row each.

Worth knowing:

- To add a modality, add a row here, the reader that it names, and to `llm.data.readers.file_types` how its files are
  told. All other code asks this table. docs/contributing.md walks through an example.
- Token shards number modalities by their place in this table, so new rows go to the end.
"""

from __future__ import annotations

from dataclasses import dataclass

Modality = str  # the name of a row of `REGISTRY`


@dataclass(frozen=True, slots=True)
class ModalityInfo:
    """What the pipeline has to know about one kind of file.

    `libraries` are those whose versions decide what a document becomes: a new version reads the files again.
    `is_prose` says that people read it, so that the filters for prose apply; all else is source code.
    `has_pages` says that its reader can recognize pages by OCR and tidies them (`recognize` and `tidy`), and
    `is_rendered` that it draws those pages first, at `ingest.ocr_dpi`. `is_plain_text` says that its files are nothing
    but characters: their names help to tell what they are, and long ones are read in parts.
    """

    name: Modality
    reader: str  # a module in llm.data.readers
    libraries: tuple[str, ...]
    color: str  # in figures
    is_prose: bool = True
    has_pages: bool = False
    is_rendered: bool = False
    is_plain_text: bool = False


REGISTRY: tuple[ModalityInfo, ...] = (
    ModalityInfo(
        "pdf",
        reader="pdf",
        libraries=("pypdfium2", "pypdf", "pillow"),  # pillow opens the pictures in PDFs
        color="#D55E00",
        has_pages=True,
        is_rendered=True,
    ),
    ModalityInfo("image", reader="image", libraries=("pillow",), color="#CC79A7", has_pages=True),
    ModalityInfo(
        "code",
        reader="code",
        libraries=(),
        color="#0072B2",
        is_prose=False,
        is_plain_text=True,
    ),
    ModalityInfo(
        "text",
        reader="text",
        libraries=("ftfy", "resiliparse", "trafilatura", "lxml", "python-oxmsg", "xlrd"),
        color="#009E73",
        is_plain_text=True,
    ),
)

MODALITIES: tuple[Modality, ...] = tuple(info.name for info in REGISTRY)
PROSE: tuple[Modality, ...] = tuple(info.name for info in REGISTRY if info.is_prose)
SOURCE_CODE: tuple[Modality, ...] = tuple(info.name for info in REGISTRY if not info.is_prose)
WITH_PAGES: tuple[Modality, ...] = tuple(info.name for info in REGISTRY if info.has_pages)
PLAIN_TEXT: tuple[Modality, ...] = tuple(info.name for info in REGISTRY if info.is_plain_text)

_BY_NAME = {info.name: info for info in REGISTRY}


def modality_info(name: Modality) -> ModalityInfo:
    """The row of a modality.

    Raises:
        ValueError: there is no such modality.
    """
    if name not in _BY_NAME:
        raise ValueError(f"modality must be one of {', '.join(MODALITIES)}, but is {name!r}")
    return _BY_NAME[name]
