from __future__ import annotations

import importlib.metadata

import pytest

from llm.data.modalities import MODALITIES, REGISTRY, ModalityInfo, modality_info
from llm.data.readers.extraction import reader


def test_the_first_modalities_keep_their_numbers() -> None:
    """Token shards that are written already number them so."""
    assert MODALITIES[:4] == ("pdf", "image", "code", "text")


@pytest.mark.parametrize("info", REGISTRY, ids=MODALITIES)
def test_a_row_is_true_of_its_reader(info: ModalityInfo) -> None:
    module = reader(info.name)
    assert isinstance(module.READER_VERSION, int)
    assert callable(module.read)
    assert [hasattr(module, name) for name in ("recognize", "tidy")] == [info.has_pages] * 2
    assert info.has_pages or not info.is_rendered
    for library in info.libraries:
        importlib.metadata.version(library)


def test_rows_differ() -> None:
    for values in zip(*((info.name, info.reader, info.color) for info in REGISTRY), strict=True):
        assert len(set(values)) == len(REGISTRY)


def test_an_unknown_modality_is_named() -> None:
    with pytest.raises(ValueError, match=r"modality must be one of pdf, image, code, text.* but is 'smell'"):
        modality_info("smell")
