"""The characters of the font Symbol in Unicode, for documents that name characters by that font's codes."""

from __future__ import annotations

# From U+0040 and from U+00A0 of the font on; a blank where Unicode has none (pieces of brackets, a trade mark).
_LETTERS = "≅ΑΒΧΔΕΦΓΗΙϑΚΛΜΝΟΠΘΡΣΤΥςΩΞΨΖ[∴]⊥_ αβχδεφγηιϕκλμνοπθρστυϖωξψζ{|}∼ "
_SIGNS = "€ϒ′≤⁄∞ƒ♣♦♥♠↔←↑→↓°±″≥×∝∂•÷≠≡≈…  ↵ℵℑℜ℘⊗⊕∅∩∪⊃⊇⊄⊂⊆∈∉∠∇®©™∏√⋅¬∧∨⇔⇐⇑⇒⇓◊〈®©™∑           〉∫⌠ ⌡"
_OTHERS = {0x22: "∀", 0x24: "∃", 0x27: "∋", 0x2A: "∗", 0x2D: "−"}
_SYMBOL = (
    {code: chr(code) for code in range(0x20, 0x40)}
    | _OTHERS
    | dict(enumerate(_LETTERS, start=0x40))
    | dict(enumerate(_SIGNS, start=0xA0))
)


def symbol(code: int, font: str) -> str:
    """The character at a code of a symbol font, "" if it is not known."""
    if not font.lower().startswith("symbol"):
        return " " if code == 0x20 else ""
    return " " if code == 0x20 else _SYMBOL.get(code, "").strip()
