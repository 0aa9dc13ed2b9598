"""Images: the text in them, by OCR.

Worth knowing:

- Every page of a multi-page TIFF is read; of an animation only the first frame, and the manifest says so.
- Any mode becomes RGB: transparency is laid on white, or on black if all that is drawn is nearly white, 16-bit gray is
  scaled, and the rotation that a camera recorded is undone.
- A small file can claim billions of pixels. Pillow's own limit (about 89 million) is an error here, not a warning.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from llm.config import IngestParams
from llm.data.readers.base import DAMAGE, Extraction, Recognized, Rejected, describe, version
from llm.data.readers.characters import join_hyphens

if TYPE_CHECKING:
    import PIL.Image

READER_VERSION = 3

_LIGHT = 190  # of 255; letters that are lighter cannot be read on white
_SMALLEST_SIDE = 16  # pixels; below this there is no room for a word


def read(path: Path, params: IngestParams) -> Extraction:
    """The number of pages, all of which have to be recognized.

    Raises:
        Rejected: it is damaged, too large or too small.
    """
    with _opened(path) as image:
        if min(image.size) < _SMALLEST_SIDE:
            raise Rejected(f"too small: {image.width} x {image.height} pixels")
        n_frames = getattr(image, "n_frames", 1)
        n_pages = n_frames if image.format in {"TIFF", "MPO"} else 1
        note = f"first of {n_frames} frames" if n_frames > n_pages else ""
        not_read = {"frames": n_frames - n_pages} if n_frames > n_pages else {}
        heif = f", pillow-heif {heif_version()}" if image.format == "HEIF" else ""
    extractor = f"pillow {version('pillow')}.{READER_VERSION}{heif}"
    return Extraction([None] * n_pages, n_pages, extractor, note=note, not_read=not_read)


def recognize(path: Path, page: int, params: IngestParams, threads: int = 1) -> Recognized:
    """The text of one page.

    Raises:
        Rejected: it is damaged.
    """
    from llm.data.readers import ocr

    with _opened(path) as image:
        image.seek(page)
        upright = to_rgb(image)
    return ocr.recognize(upright, params, threads)


def tidy(pages: Sequence[str]) -> list[str]:
    """The pages with hyphenated words joined."""
    return join_hyphens(pages)


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """An upright, opaque RGB copy of a picture in any mode."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in {"I", "F"} or image.mode.startswith("I;16"):
        import numpy as np

        gray = np.asarray(image, dtype=np.float64)
        low, high = gray.min(), gray.max()
        return Image.fromarray(((gray - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, _background(image)), image)
    return image.convert("RGB")


def _background(image: PIL.Image.Image) -> str:
    """The color to lay an RGBA picture on: white, or black if all that there is in it is nearly white."""
    import numpy as np

    opacity = np.asarray(image.getchannel("A"), dtype=np.float32)
    is_light = np.asarray(image.convert("L")) > _LIGHT
    n_clear = np.count_nonzero(opacity < 128)
    all_light = float((opacity * is_light).sum()) > 0.9 * float(opacity.sum())
    return "black" if all_light and n_clear > 0.1 * opacity.size and opacity.any() else "white"


@functools.cache
def heif_version() -> str:
    """The version of the package with which Pillow reads HEIC pictures from here on; empty if it is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return ""
    pillow_heif.register_heif_opener()
    return version("pillow-heif")


@contextmanager
def _opened(path: Path) -> Iterator[PIL.Image.Image]:
    from PIL import Image, UnidentifiedImageError

    try:
        heif_version()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Rejected(f"too many pixels: more than {Image.MAX_IMAGE_PIXELS or 0:,}") from None
    except UnidentifiedImageError:
        raise Rejected("damaged image: not in any format that Pillow knows") from None
    except DAMAGE as error:
        raise Rejected(f"damaged image: it cannot be decoded ({describe(error)})") from None
