"""Make llm/data/readers/letter_frequencies.json: how often letters follow each other, by language.

Worth knowing:

- The counts are taken from translated messages in the catalogs (.mo) of programs under permissive licenses. Nothing of
  the texts themselves is kept, only rounded costs of pairs of letters, and the most frequent characters of Chinese,
  Japanese and Korean. The file in the repository was made from Django 5.2.19, Sphinx 9.0.4 and Wagtail 8.0.1, all
  under the BSD license: pip install --no-deps --target FOLDER django==5.2.19 sphinx==9.0.4 wagtail==8.0.1
- `llm.data.readers.encoding_model` says what the numbers mean.

Usage: python -m benchmarks.letter_frequencies FOLDER
"""

from __future__ import annotations

import gettext
import itertools
import json
import math
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path

from llm.data.readers.encoding_model import CLASSES, DATA_PATH, char_class, folded, is_letter, main_script
from llm.files import write_text

# Names of catalogs, by language; the rare ones among these are told apart from the frequent ones by priors.
LANGUAGES = {
    "en": "en_GB en_AU", "fr": "fr fr_FR", "de": "de", "es": "es es_AR es_MX", "pt": "pt pt_BR pt_PT", "it": "it",
    "ca": "ca", "gl": "gl", "eu": "eu", "nl": "nl", "af": "af", "sv": "sv", "da": "da", "nb": "nb nn", "is": "is is_IS",
    "fi": "fi", "et": "et", "lv": "lv", "lt": "lt", "pl": "pl", "cs": "cs", "sk": "sk sk_SK", "sl": "sl",
    "hr": "hr hr_HR bs sr_Latn", "hu": "hu", "ro": "ro", "sq": "sq", "tr": "tr tr_TR", "az": "az az_AZ", "ga": "ga",
    "cy": "cy", "eo": "eo", "id": "id ms", "vi": "vi", "vi-tones": "vi", "hsb": "hsb dsb", "ru": "ru",
    "uk": "uk uk_UA", "be": "be",
    "bg": "bg", "mk": "mk", "sr": "sr", "kk": "kk", "tg": "tg", "tt": "tt", "el": "el", "he": "he he_IL", "ar": "ar",
    "fa": "fa", "ur": "ur", "th": "th",
}  # fmt: skip
IDEOGRAPHIC = {"zh": "zh_Hans zh_CN", "zh-hant": "zh_Hant zh_TW", "ja": "ja", "ko": "ko"}
N_IDEOGRAPHS = 400
MIN_LETTER_SHARE = 2e-5  # of the letters of a language; rarer ones are foreign to it
SMOOTHING = 4.0  # counts of what a letter's overall frequency predicts, added to each pair
_CEDILLAS = str.maketrans("șțȘȚ", "şţŞŢ")
_PLACEHOLDERS = re.compile(r"%\(\w+\)\w|%\w|\{[^}]*\}|</?\w[^>]*>|`|:\w+:")
_TONES = {"\u0300", "\u0301", "\u0303", "\u0309", "\u0323"}


def messages(folder: Path, catalogs: str) -> list[str]:
    """The translated messages of the catalogs with these names, without their placeholders."""
    found = set()
    for name in catalogs.split():
        for path in sorted(folder.glob(f"**/{name}/LC_MESSAGES/*.mo")):
            with path.open("rb") as file:
                catalog = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
            found |= {text for key, text in catalog.items() if key and text != key and isinstance(text, str)}
    return [_PLACEHOLDERS.sub("", unicodedata.normalize("NFC", text)) for text in sorted(found)]


def with_tones_apart(text: str) -> str:
    """Vietnamese as windows-1258 writes it: the tone is a character of its own, other marks are part of the letter."""
    out = []
    for char in text:
        parts = unicodedata.normalize("NFD", char)
        tones = [part for part in parts if part in _TONES]
        out.append(unicodedata.normalize("NFC", "".join(p for p in parts if p not in _TONES)) + "".join(tones))
    return "".join(out)


def pair_costs(texts: list[str]) -> dict[str, str]:
    """The alphabet of a language, and the cost of each pair of its letters, 0 being the edge of a word."""
    pairs: Counter[tuple[str, str]] = Counter()
    for text in texts:
        chars = ["", *(folded(char) if is_letter(char) else "" for char in text), ""]
        pairs.update(itertools.pairwise(chars))
    letters = Counter[str]()
    for (_, second), count in pairs.items():
        letters[second] += count
    del letters[""]
    total = letters.total()
    script = main_script("".join(c for c, count in letters.items() if count >= 1e-3 * total))
    alphabet = sorted(
        c
        for c, count in letters.items()
        if count >= max(3, MIN_LETTER_SHARE * total) and main_script(c) in {script, "LATIN"}
    )
    known = {char: index for index, char in enumerate(["", *alphabet])}
    size = len(known)
    counts = [[0.0] * size for _ in range(size)]
    for (first, second), count in pairs.items():
        counts[known.get(first, 0)][known.get(second, 0)] += count
    share = [0.0, *(letters[c] / total for c in alphabet)]
    rows = []
    for row in counts:
        n = sum(row[1:])  # given that a letter follows: whether one does is a matter of classes
        rows.append(
            "".join(
                chr(40 + min(80, round(-4 * math.log((row[j] + SMOOTHING * share[j]) / (n + SMOOTHING)))) if j else 40)
                for j in range(size)
            )
        )
    return {"alphabet": "".join(alphabet), "costs": "".join(rows)}


def main() -> None:
    """Count and write."""
    folder = Path(sys.argv[1])
    languages, classes, others = {}, Counter[tuple[int, int]](), Counter[str]()
    for language, catalogs in LANGUAGES.items():
        texts = messages(folder, catalogs)
        if language == "vi-tones":
            texts = [with_tones_apart(text) for text in texts]
        if language == "ro":  # older encodings have cedillas where commas are right
            texts += [text.translate(_CEDILLAS) for text in texts]
        languages[language] = pair_costs(texts)
        for text in texts:
            kinds = [CLASSES.index("space"), *map(char_class, text), CLASSES.index("space")]
            classes.update(itertools.pairwise(kinds))
            others.update(char for char in text if not is_letter(char))
    ideographs = {}
    for language, catalogs in IDEOGRAPHIC.items():
        texts = messages(folder, catalogs)
        for text in texts:
            kinds = [CLASSES.index("space"), *map(char_class, text), CLASSES.index("space")]
            classes.update(itertools.pairwise(kinds))
            others.update(char for char in text if not is_letter(char))
        counts = Counter(c for text in texts for c in text if c > "\u2e7f" and is_letter(c))
        ideographs[language] = "".join(char for char, _ in counts.most_common(N_IDEOGRAPHS))
    data = {
        "languages": languages,
        "ideographs": ideographs,
        "classes": [[classes[a, b] for b in range(len(CLASSES))] for a in range(len(CLASSES))],
        "others": dict(sorted(others.items())),
    }
    write_text(DATA_PATH, json.dumps(data, ensure_ascii=False, indent=0) + "\n")


if __name__ == "__main__":
    main()
