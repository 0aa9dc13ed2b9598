"""The languages that OCR engines read, and how text in a script that they do not know is told from text.

Worth knowing:

- RapidOCR's wheel carries one model: Chinese, Japanese, and languages in Latin letters. It has Cyrillic and Greek
  letters among its classes and was not taught to read them: it leaves such lines blank, or keeps the letters that look
  familiar. It lacks most letters of Vietnamese. Its other models are downloads, and no package under a permissive
  license has them; nothing is downloaded here.
- Tesseract has a package for each language; docs/own-data.md names them.
- A line is taken to be unread if most of its letters are of a script that the engine does not know, if words mix
  scripts, if an uncertain line has capitals and digits within its words, or if there is far less text than the width
  of the line has room for.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from llm.config import IngestParams
from llm.errors import UserError

# Two-letter codes (ISO 639-1), the names of tesseract's models, and scripts as Unicode names letters.
_TESSERACT = {
    "Latin": (
        "af=afr az=aze bs=bos ca=cat cs=ces cy=cym da=dan de=deu en=eng es=spa et=est eu=eus fi=fin fr=fra ga=gle "
        "gl=glg hr=hrv hu=hun id=ind is=isl it=ita la=lat lb=ltz lt=lit lv=lav mi=mri ms=msa mt=mlt nl=nld no=nor "
        "oc=oci pl=pol pt=por qu=que ro=ron sk=slk sl=slv sq=sqi sv=swe sw=swa tr=tur uz=uzb vi=vie"
    ),
    "Cyrillic": "be=bel bg=bul kk=kaz ky=kir mk=mkd mn=mon ru=rus sr=srp tg=tgk uk=ukr",
    "Greek": "el=ell",
    "Arabic": "ar=ara fa=fas ps=pus ug=uig ur=urd",
    "Hebrew": "he=heb yi=yid",
    "Devanagari": "hi=hin mr=mar ne=nep sa=san",
    "Thai": "th=tha",
    "Hangul": "ko=kor",
    "Japanese": "ja=jpn",
    "Han": "zh=chi_sim",
    "Bengali": "as=asm bn=ben",
    "Gujarati": "gu=guj",
    "Gurmukhi": "pa=pan",
    "Kannada": "kn=kan",
    "Malayalam": "ml=mal",
    "Tamil": "ta=tam",
    "Telugu": "te=tel",
    "Georgian": "ka=kat",
    "Armenian": "hy=hye",
    "Ethiopic": "am=amh ti=tir",
}
MODELS = {pair[:2]: pair[3:] for pairs in _TESSERACT.values() for pair in pairs.split()}
SCRIPTS = {pair[:2]: script for script, pairs in _TESSERACT.items() for pair in pairs.split()}
_RAPIDOCR_SCRIPTS = {"Latin", "Han", "Japanese"}
# What Unicode calls the letters of a script, as far as it has another name.
_LETTERS = {"CJK": "Han", "HIRAGANA": "Han", "KATAKANA": "Han", "KATAKANA-HIRAGANA": "Han", "IDEOGRAPHIC": "Han"}
_SYMBOLS = {"MICRO", "OHM", "ANGSTROM", "KELVIN", "FEMININE", "MASCULINE", "MODIFIER", "DOUBLE-STRUCK", "FULLWIDTH"}
_UNSURE = 0.75  # confidence, below which capitals and digits within words speak against a line
_HORNED = set("ƠơƯư")
_HORNED_SHARE = 0.02  # of the words; it is about 0.1 in Vietnamese
_LEAST_TEXT = 0.3  # characters for each line height of a line's width; prose has about 2, Chinese 1


def check_languages(params: IngestParams) -> None:
    """Raise a UserError if a language is unknown, or RapidOCR alone is to read what it does not know."""
    for code in params.ocr_languages:
        if code not in SCRIPTS:
            raise UserError(f"ingest.ocr_languages has {code!r}, which is not among {', '.join(sorted(SCRIPTS))}")
        if params.ocr_engine == "rapidocr" and not rapidocr_reads(code):
            raise UserError(
                f"ingest.ocr_languages has {code}, and RapidOCR's model does not know its letters ({SCRIPTS[code]}): "
                f"set ingest.ocr_engine to auto, and install tesseract with its model {MODELS[code]} (docs/own-data.md)"
            )


def rapidocr_reads(code: str) -> bool:
    """Whether RapidOCR's model has all letters of a language."""
    return SCRIPTS[code] in _RAPIDOCR_SCRIPTS and code != "vi"


def rapidocr_scripts(params: IngestParams) -> set[str]:
    """The scripts whose letters are believed of RapidOCR."""
    named = {SCRIPTS[code] for code in params.ocr_languages if rapidocr_reads(code)}
    return _with_shared(named | {"Latin"} if named else _RAPIDOCR_SCRIPTS)


def tesseract_scripts(models: Sequence[str]) -> set[str]:
    """The scripts whose letters are believed of tesseract with these models."""
    return _with_shared({SCRIPTS[code] for code, model in MODELS.items() if model in models} | {"Latin"})


def _with_shared(scripts: set[str]) -> set[str]:
    return scripts | {"Han"} if scripts & {"Japanese", "Hangul"} else scripts


def is_vietnamese(texts: Iterable[str]) -> bool:
    """Whether lines that RapidOCR has read are Vietnamese: it knows two letters that no other language has."""
    words = [word for text in texts for word in text.split()]
    n_horned = sum(not _HORNED.isdisjoint(word) for word in words)
    return n_horned >= 2 and n_horned >= _HORNED_SHARE * len(words)


@functools.cache
def script_of(character: str) -> str:
    """The script of a letter as Unicode names it (Latin, Cyrillic, ...), Han for all of Japanese; empty for others."""
    if not character.isalpha():
        return ""
    first = unicodedata.name(character, "").split(" ")[0]
    return "" if first in _SYMBOLS else _LETTERS.get(first, first.capitalize())


def is_known(text: str, known: set[str]) -> bool:
    """Whether most letters of a text are of `known` scripts; true without letters."""
    scripts = Counter(filter(None, map(script_of, text)))
    return 2 * sum(count for script, count in scripts.items() if script in known) >= scripts.total()


def is_unread(text: str, width: float, height: float, confidence: float, known: set[str]) -> bool:
    """Whether a recognized line, `width` by `height` pixels, is what remains of a script that is not `known`."""
    n_visible = len("".join(text.split()))
    if width >= 6 * height and n_visible < _LEAST_TEXT * width / height:
        return True
    words = [word for word in re.findall(r"[^\W\d_]+", text) if len(word) > 1]
    scripts = [{script for script in map(script_of, word) if script} for word in words]
    n_mixed = sum(len(of_word - {"Han"}) > 1 for of_word in scripts)
    if not is_known(text, known) or (n_mixed >= 2 and 3 * n_mixed > len(words)):
        return True
    n_odd = len(re.findall(r"\b\w*(?:[^\W\d_A-Z][A-Z]|\d[^\W\d_]|[^\W\d_]\d)\w*", text))
    return confidence < _UNSURE and n_odd >= 2 and 4 * n_odd > len(words)
