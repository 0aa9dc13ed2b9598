"""Equations of Word (OMML) and MathML as linear text: Q=Av^2, (a+b)/c, √(x)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llm.data.readers.office.package import attribute, child, children, local

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_SKIPPED = {"annotation", "annotation-xml", "ctrlPr", "rPr", "sPr"}


def linear(element: Element | None) -> str:
    """An equation, or a part of one, in a line."""
    if element is None:
        return ""
    name = local(element)
    handler = _OMML.get(name) or _MATHML.get(name)
    if handler:
        return handler(element)
    if name in _SKIPPED or name.endswith("Pr"):
        return ""
    if name == "t":
        return element.text or ""
    if name in {"mi", "mn", "mo", "mtext", "ms"}:
        return _leaf(element)
    return _all(element)


def _all(element: Element | None) -> str:
    return "" if element is None else "".join(linear(part) for part in element)


def _leaf(element: Element) -> str:
    text = " ".join("".join(element.itertext()).split())
    return f" {text} " if len(text) > 1 and local(element) in {"mo", "mtext"} else text


def _grouped(text: str) -> str:
    """In parentheses, unless it is one character, one number or one word."""
    text = text.strip()
    if len(text) <= 1 or text.isalnum() or (text[0] in "([{" and text[-1] in ")]}"):
        return text
    return f"({text})"


def _script(base: str, below: str, above: str) -> str:
    return base + (f"_{_grouped(below)}" if below.strip() else "") + (f"^{_grouped(above)}" if above.strip() else "")


def _omml(*names: str) -> Callable[[Element], list[str]]:
    """A function from an element to the linear forms of its children of these names."""
    return lambda element: [linear(child(element, name)) for name in names]


def _omml_script(element: Element) -> str:
    return _script(*_omml("e", "sub", "sup")(element))


def _omml_nary(element: Element) -> str:
    sign = attribute(child(element, "naryPr", "chr"), "val", "∫")
    below, above, body = _omml("sub", "sup", "e")(element)
    return f"{_script(sign, below, above)} {body}"


def _omml_delimited(element: Element) -> str:
    properties = child(element, "dPr")
    begin, end, between = (
        attribute(found, "val") if (found := child(properties, name)) is not None else default
        for name, default in (("begChr", "("), ("endChr", ")"), ("sepChr", "|"))
    )
    return begin + between.join(linear(part) for part in children(element, "e")) + end


def _omml_fraction(element: Element) -> str:
    above, below = _omml("num", "den")(element)
    return f"{_grouped(above)}/{_grouped(below)}"


def _omml_radical(element: Element) -> str:
    degree, body = _omml("deg", "e")(element)
    return f"{_grouped(degree)}√({body.strip()})"


def _omml_function(element: Element) -> str:
    name, body = _omml("fName", "e")(element)
    return f"{name} {body}"


def _omml_limit(element: Element) -> str:
    body, limit = _omml("e", "lim")(element)
    below = local(element) == "limLow"
    return _script(body, limit if below else "", "" if below else limit)


def _omml_matrix(element: Element) -> str:
    rows = (" ".join(linear(part) for part in children(row, "e")) for row in children(element, "mr"))
    return f"[{'; '.join(rows)}]"


def _omml_rows(element: Element) -> str:
    return "; ".join(linear(part) for part in children(element, "e"))


def _omml_accent(element: Element) -> str:
    sign = attribute(child(element, "accPr", "chr"), "val", "\u0302")
    return linear(child(element, "e")) + sign


_OMML = {
    "sSup": _omml_script, "sSub": _omml_script, "sSubSup": _omml_script, "nary": _omml_nary, "d": _omml_delimited,
    "f": _omml_fraction, "rad": _omml_radical, "func": _omml_function, "limLow": _omml_limit, "limUpp": _omml_limit,
    "m": _omml_matrix, "eqArr": _omml_rows, "acc": _omml_accent,
}  # fmt: skip


def _parts(element: Element) -> list[str]:
    return [*(linear(part) for part in element), "", "", ""]


def _ml_sup(element: Element) -> str:
    base, above, *_ = _parts(element)
    return _script(base, "", above)


def _ml_sub(element: Element) -> str:
    base, below, *_ = _parts(element)
    return _script(base, below, "")


def _ml_both(element: Element) -> str:
    base, below, above, *_ = _parts(element)
    return _script(base, below, above)


def _ml_fraction(element: Element) -> str:
    above, below, *_ = _parts(element)
    return f"{_grouped(above)}/{_grouped(below)}"


def _ml_root(element: Element) -> str:
    if local(element) == "msqrt":
        return f"√({_all(element).strip()})"
    body, degree, *_ = _parts(element)
    return f"{_grouped(degree)}√({body.strip()})"


def _ml_table(element: Element) -> str:
    rows = (" ".join(_all(cell) for cell in row) for row in element)
    return f"[{'; '.join(rows)}]"


def _ml_fenced(element: Element) -> str:
    separator = attribute(element, "separators", ",")[:1]
    return attribute(element, "open", "(") + separator.join(map(linear, element)) + attribute(element, "close", ")")


def _ml_semantics(element: Element) -> str:
    return linear(next(iter(element), None))


_MATHML = {
    "msup": _ml_sup, "mover": _ml_sup, "msub": _ml_sub, "munder": _ml_sub, "msubsup": _ml_both,
    "munderover": _ml_both, "mfrac": _ml_fraction, "msqrt": _ml_root, "mroot": _ml_root, "mtable": _ml_table,
    "mfenced": _ml_fenced, "semantics": _ml_semantics,
}  # fmt: skip
