"""Many calls of one pdfium function, such as for each character of a page.

Worth knowing: pypdfium2 declares the types of pdfium's functions, and checking and converting their arguments takes
longer than most of them do. Where one is called for each character or object, `direct` declares addresses as plain
integers: called through `map`, that takes a third of the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from ctypes import CFUNCTYPE, c_int, c_void_p, cast
from itertools import repeat
from typing import Any

_MAX_DEPTH = 15  # of forms within forms


@functools.cache
def direct(name: str, returns: Any, *arguments: Any) -> Callable[..., Any]:
    """A function of pdfium's with these C types; pointers may be declared `c_void_p` and passed as integers."""
    import pypdfium2.raw as pdfium_c

    return CFUNCTYPE(returns, *arguments)(cast(getattr(pdfium_c, name), c_void_p).value or 0)


def address(handle: Any) -> int:
    """The address behind a handle of pypdfium2's, such as `page.raw`."""
    return cast(handle, c_void_p).value or 0


def pictures(page: Any) -> Iterator[Any]:
    """The handles of all pictures on a page, a handle as well, and in the forms that it draws."""
    import pypdfium2.raw as pdfium_c

    n_objects = pdfium_c.FPDFPage_CountObjects(page)
    for index, kind in enumerate(object_types(page, range(n_objects))):
        if kind in (pdfium_c.FPDF_PAGEOBJ_IMAGE, pdfium_c.FPDF_PAGEOBJ_FORM):
            yield from _pictures_of(pdfium_c.FPDFPage_GetObject(page, index), kind, 0)


def _pictures_of(drawn: Any, kind: int, depth: int) -> Iterator[Any]:
    import pypdfium2.raw as pdfium_c

    if kind == pdfium_c.FPDF_PAGEOBJ_IMAGE:
        yield drawn
    elif kind == pdfium_c.FPDF_PAGEOBJ_FORM and depth < _MAX_DEPTH:
        for index in range(pdfium_c.FPDFFormObj_CountObjects(drawn)):
            inner = pdfium_c.FPDFFormObj_GetObject(drawn, index)
            yield from _pictures_of(inner, pdfium_c.FPDFPageObj_GetType(inner), depth + 1)


def object_types(page: Any, indices: range) -> list[int]:
    """The types (`FPDF_PAGEOBJ_...`) of some objects of a page, which is a handle."""
    get = direct("FPDFPage_GetObject", c_void_p, c_void_p, c_int)
    get_type = direct("FPDFPageObj_GetType", c_int, c_void_p)
    return list(map(get_type, map(get, repeat(address(page)), indices)))
