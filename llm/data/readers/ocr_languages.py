"""The languages that OCR engines read, and how text in a script that they do not know is told from text.

Worth knowing:

- RapidOCR's wheel carries one model: Chinese, Japanese, and languages in Latin letters. It has Cyrillic and Greek
  letters among its classes and was not taught to read them: it leaves such lines blank, or keeps the letters that look
  familiar. Its other models are downloads, and no package has them; nothing is downloaded here.
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
_LEAST_TEXT = 0.3  # characters for each line height of a line's width; prose has about 2, Chinese 1


def check_languages(params: IngestParams) -> None:
    """Raise a UserError if the engine cannot read a language that is asked for; the message says what could."""
    for code in params.ocr_languages:
        if code not in SCRIPTS:
            raise UserError(f"ingest.ocr_languages has {code!r}, which is not among {', '.join(sorted(SCRIPTS))}")
        if params.ocr_engine == "rapidocr" and SCRIPTS[code] not in _RAPIDOCR_SCRIPTS:
            raise UserError(
                f"ingest.ocr_languages has {code}, and RapidOCR's models do not know its script ({SCRIPTS[code]}): set "
                f"ingest.ocr_engine to tesseract, and install its model {MODELS[code]} (docs/own-data.md)"
            )


def known_scripts(params: IngestParams) -> set[str]:
    """The scripts whose letters are believed."""
    if params.ocr_languages:
        scripts = {SCRIPTS[code] for code in params.ocr_languages} | {"Latin"}
    else:
        scripts = set(_RAPIDOCR_SCRIPTS) if params.ocr_engine == "rapidocr" else set(_TESSERACT)
    if scripts & {"Japanese", "Hangul"}:
        scripts.add("Han")
    return scripts


@functools.cache
def script_of(character: str) -> str:
    """The script of a letter as Unicode names it (Latin, Cyrillic, ...), Han for all of Japanese; empty for others."""
    if not character.isalpha():
        return ""
    first = unicodedata.name(character, "").split(" ")[0]
    return "" if first in _SYMBOLS else _LETTERS.get(first, first.capitalize())


def is_known(text: str, params: IngestParams) -> bool:
    """Whether most letters of a text are of scripts that the engine knows; true without letters."""
    scripts = Counter(filter(None, map(script_of, text)))
    known = known_scripts(params)
    return 2 * sum(count for script, count in scripts.items() if script in known) >= scripts.total()


def is_unread(text: str, width: float, height: float, confidence: float, params: IngestParams) -> bool:
    """Whether a recognized line, `width` by `height` pixels, is what remains of a script that the engine misses."""
    n_visible = len("".join(text.split()))
    if width >= 6 * height and n_visible < _LEAST_TEXT * width / height:
        return True
    words = [word for word in re.findall(r"[^\W\d_]+", text) if len(word) > 1]
    scripts = [{script for script in map(script_of, word) if script} for word in words]
    n_mixed = sum(len(of_word - {"Han"}) > 1 for of_word in scripts)
    if not is_known(text, params) or (n_mixed >= 2 and 3 * n_mixed > len(words)):
        return True
    n_odd = len(re.findall(r"\b\w*(?:[^\W\d_A-Z][A-Z]|\d[^\W\d_]|[^\W\d_]\d)\w*", text))
    return confidence < _UNSURE and n_odd >= 2 and 4 * n_odd > len(words)
