"""Which of the older encodings a text is in, by how likely its bytes are as text of some language.

Worth knowing:

- Every encoding is tried with every language that is written in its letters. The cost of a reading is its negative log
  probability under a small language model: pairs of character classes (a capital after a small letter is unlikely),
  then pairs of letters in the language. The encoding of the cheapest reading wins, its prior included: old mail and
  files are in windows-1252 more often than in hp-roman8.
- Only the surroundings of non-ASCII bytes are looked at, and pairs of ASCII characters count for little: they are the
  same in all encodings, and tell only the language.
- In Chinese, Japanese and Korean single characters count. The national standards list the usual characters before the
  rare ones, so Python's codecs say which are usual; only the very frequent ones are in our table.
- The cost of single-byte readings comes from a table of pairs of bytes, so it does not grow with the text. Multi-byte
  encodings are decoded, if the bytes are valid in them.
- `benchmarks/letter_frequencies.py` makes the table, letter_frequencies.json.
"""

from __future__ import annotations

import functools
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

DATA_PATH = Path(__file__).with_name("letter_frequencies.json")
CLASSES = (
    "space", "digit", "lower", "upper", "caseless", "mark", "ascii", "open", "close", "dash", "sign", "currency",
    "math", "box", "accent", "cjk", "nbsp", "control",
)  # fmt: skip
# Encodings with the cost of finding them at all, in nats. Those that another one contains are left out: Latin-1 without
# C1 control characters is windows-1252, EUC-KR is cp949, Shift JIS is cp932, GB2312 is GB18030.
SINGLE_BYTE = {
    "cp1252": 0.0, "cp1251": 0.5, "cp1250": 1.0, "cp1253": 1.0, "cp1254": 1.5, "cp1255": 1.0, "cp1256": 1.0,
    "cp1257": 1.5, "cp1258": 2.0, "iso8859_2": 1.5, "iso8859_3": 5.5, "iso8859_4": 5.5, "iso8859_5": 2.0,
    "iso8859_6": 2.0, "iso8859_7": 1.5, "iso8859_8": 1.5, "iso8859_9": 2.0, "iso8859_10": 6.5, "iso8859_13": 3.0,
    "iso8859_14": 6.5, "iso8859_15": 1.0, "iso8859_16": 5.5, "koi8_r": 0.5, "koi8_u": 1.0, "koi8_t": 5.5,
    "kz1048": 4.5, "ptcp154": 5.5, "cp437": 3.5, "cp720": 5.5, "cp737": 4.5, "cp775": 4.5, "cp850": 3.0, "cp852": 3.5,
    "cp855": 5.5, "cp857": 4.5, "cp858": 3.5, "cp860": 5.5, "cp861": 5.5, "cp862": 4.5, "cp863": 5.5, "cp865": 5.0,
    "cp866": 3.0, "cp869": 5.5, "cp874": 1.0, "cp1125": 4.5, "hp_roman8": 7.5, "mac_roman": 3.5, "mac_cyrillic": 4.5,
    "mac_greek": 5.0, "mac_latin2": 4.5, "mac_turkish": 5.0, "mac_iceland": 5.5, "mac_croatian": 5.5,
    "mac_romanian": 6.0, "mac_arabic": 6.0, "mac_farsi": 6.5,
}  # fmt: skip
MULTI_BYTE = {
    "cp932": 0.5, "euc_jp": 1.0, "gb18030": 0.5, "big5hkscs": 1.0, "cp949": 0.5, "johab": 6.5, "cp950": 0.5,
    "shift_jis_2004": 5.5, "euc_jis_2004": 5.5,
}  # fmt: skip

IDEOGRAPHIC = ("zh", "zh-hant", "ja", "ko")

_OPEN, _CLOSE = set("“‘«„‚‹¿¡‛‟"), set("”’»›")
_DASH = set("–—…•·‥―‐‑")
_SIGN = set("§©®°™ªº²³¹½¼¾№†‡¶‰\xad¦")
_ASCII_WEIGHT = 0.5
_HINT = 12.0  # nats by which a declared encoding is likelier
_FOREIGN, _RARE = 11.0, 14.0  # nats for a letter that the language does not have: one that many do have, or another
_COMMON_IN = 4  # languages that have a letter, from which it is found in names and loan words elsewhere
_UNDEFINED = 16.0  # nats for a byte that the encoding does not have
MAX_COST = 6.5  # nats per byte, ASCII by its weight, beyond which this is no text
_PRINTABLE = bytes({*range(32, 127)} | set(b"\t\n\f\r"))  # the ASCII characters of texts
_ODD_SHARE = 0.25  # of other bytes, up to which this is a text whatever the model makes of those bytes
_AROUND = 24  # bytes on each side of a non-ASCII byte
_SAMPLE_BYTES = 2**16
_PAIRS = 3000  # different pairs of bytes that are looked at, the most frequent ones


class Guess(NamedTuple):
    """An encoding, the language whose model it was found with, and its cost in nats per byte."""

    encoding: str
    language: str
    cost: float


def best_encoding(data: bytes, first_bad: int = 0, hints: Sequence[str] = ()) -> Guess | None:
    """The likeliest encoding of a text that has no byte order mark and is not UTF-8, or None if it is no text.

    Args:
        data: the bytes.
        first_bad: where the first non-ASCII byte is, or before.
        hints: encodings that the text declares, by the names of SINGLE_BYTE and MULTI_BYTE; the likelihood decides.
    """
    sample = _surroundings(data[max(0, first_bad - _AROUND) :])
    found = [
        Guess(name, language, cost - (_HINT if name in hints else 0.0))
        for name, language, cost in [*_single_byte_costs(sample), *_multi_byte_costs(sample)]
    ]
    if not found:
        return None
    best = min(found, key=lambda guess: guess.cost)
    n_ascii = len(sample.decode("ascii", "ignore"))
    cost = best.cost / (len(sample) - n_ascii + _ASCII_WEIGHT * n_ascii)
    if cost > MAX_COST and not _is_mostly_ascii(data):
        return None
    return best._replace(cost=cost)


def _is_mostly_ascii(data: bytes) -> bool:
    """Whether this is a text with some odd characters, such as a table of them, rather than none at all."""
    head = data[:_SAMPLE_BYTES]
    return len(head.translate(None, _PRINTABLE)) <= _ODD_SHARE * len(head)


def text_cost(text: str) -> float:
    """The cost of a text in nats per character, by the model of the language that fits it best."""
    text = text[:_SAMPLE_BYTES]
    symbols, places = np.unique(np.frombuffer(text.encode("utf-32-le", "replace"), "<u4"), return_inverse=True)
    return min(_costs_of_chars([chr(code) for code in symbols], places).values()) / len(text) if text else 0.0


def is_letter(char: str) -> bool:
    """Whether this is a letter or a mark on one."""
    category = unicodedata.category(char)
    return category in {"Lu", "Ll", "Lt", "Lo", "Mn", "Mc"} and char not in _SIGN


def folded(char: str) -> str:
    """A letter in lower case, as one character."""
    return char.lower()[:1]


@functools.cache
def char_class(char: str) -> int:
    """The place in CLASSES of a character's class."""
    return CLASSES.index(_class_name(char))


def _class_name(char: str) -> str:
    category = unicodedata.category(char)
    if char in " \t\n\r\f":
        return "space"
    if char == "\xa0":
        return "nbsp"
    for chars, name in ((_OPEN, "open"), (_CLOSE, "close"), (_DASH, "dash"), (_SIGN, "sign")):
        if char in chars:
            return name
    if category in {"Mn", "Mc"}:
        return "mark"
    if category[0] == "L" and category != "Lm":
        return {"Lu": "upper", "Lt": "upper", "Ll": "lower"}.get(category, "caseless")
    if category == "Nd" and char < "\uff00":
        return "digit"
    if "!" <= char <= "~":
        return "ascii"
    if "\u3000" <= char <= "\u303f" or "\uff00" <= char <= "\uffef" or char in "・ー〜":
        return "cjk"
    if "\u2500" <= char <= "\u25ff":
        return "box"
    names = {"Sc": "currency", "Sm": "math", "Sk": "accent", "Lm": "accent", "No": "sign", "So": "sign"}
    return names.get(category, "close" if category[0] == "P" else "control")


class _Model(NamedTuple):
    languages: dict[str, dict[str, int]]  # the letters of each, numbered from 1
    numbers: dict[str, int]  # of the languages
    costs: Array  # (languages, letters, letters): 0 is the edge of a word, -1 and -2 are foreign letters
    common: set[str]  # the letters of many languages
    ideographs: dict[str, dict[str, int]]  # the rank of the most frequent characters
    classes: Array  # cost of a class after another
    others: dict[str, float]  # cost of a character that is no letter, within its class


@functools.cache
def _model() -> _Model:
    data = json.loads(DATA_PATH.read_text(encoding="utf-8"))
    languages = {
        name: {char: index for index, char in enumerate(language["alphabet"], 1)}
        for name, language in data["languages"].items()
    }
    n_languages = Counter(char for alphabet in languages.values() for char in alphabet)
    common = {char for char, count in n_languages.items() if count >= _COMMON_IN}
    longest = 3 + max(map(len, languages.values()))
    costs = np.full((len(languages), longest, longest), _RARE, np.float32)
    costs[:, :, -2] = _FOREIGN
    for table, language in zip(costs, data["languages"].values(), strict=True):
        size = len(language["alphabet"]) + 1
        known = np.frombuffer(language["costs"].encode(), np.uint8).astype(np.float32).reshape(size, size)
        table[:size, :size] = (known - 40) / 4
        table[-2:, :size] = table[0, :size]  # after a foreign letter as at the beginning of a word
    counts = np.array(data["classes"], np.float64) + 0.5
    control, box = CLASSES.index("control"), CLASSES.index("box")
    counts[:, control] = counts[control] = 0.001
    for name, count in (("box", 5000), ("space", 1000), ("nbsp", 10), ("digit", 5), ("lower", 5), ("upper", 5)):
        counts[box, CLASSES.index(name)] += count  # frames of DOS programs; catalogs have none
    counts[CLASSES.index("space"), box] += 300
    lower, accent = CLASSES.index("lower"), CLASSES.index("accent")
    counts[lower, accent] += 600  # an acute accent is typed for an apostrophe
    counts[accent, lower] += 30
    classes = -np.log(counts / counts.sum(axis=1, keepdims=True))
    members: dict[int, dict[str, float]] = {}
    reachable = {char for name in SINGLE_BYTE for char in _characters(name)} | set(data["others"])
    for char in reachable:
        if not is_letter(char):
            count = data["others"].get(char, 0) + (20 if char in "€„“”‘’«»–—…•·´" else 0.3)
            members.setdefault(char_class(char), {})[char] = count
    others = {
        char: float(-np.log(count / sum(chars.values()))) for chars in members.values() for char, count in chars.items()
    }
    ideographs = {name: {char: rank for rank, char in enumerate(text)} for name, text in data["ideographs"].items()}
    numbers = {name: number for number, name in enumerate(languages)}
    return _Model(languages, numbers, costs, common, ideographs, classes.astype(np.float32), others)


@functools.cache
def _characters(encoding: str) -> str:
    """The 256 characters of a single-byte encoding; U+FFFF for bytes that it does not have."""
    return "".join(bytes([byte]).decode(encoding, "replace").replace("\ufffd", "\uffff") for byte in range(256))


class _Symbols(NamedTuple):
    """What the model says of a list of characters, whatever the language."""

    chars: Sequence[str]
    classes: Array
    own: Array  # the cost of a character that is no letter
    letters: Array  # whether it is one


def _symbols(chars: Sequence[str]) -> _Symbols:
    others = _model().others
    letters = np.array([is_letter(char) for char in chars], bool)
    own = [
        0.0 if letter else _UNDEFINED if char == "\uffff" else others.get(char, 9.0)
        for char, letter in zip(chars, letters, strict=True)
    ]
    return _Symbols(chars, np.array([char_class(char) for char in chars]), np.array(own, np.float32), letters)


@functools.cache
def _symbols_of(encoding: str) -> _Symbols:
    return _symbols(_characters(encoding))


@functools.cache
def _places_of(encoding: str, languages: tuple[str, ...]) -> Array:
    return np.array([_places(_characters(encoding), language) for language in languages])


def _places(chars: Sequence[str], language: str) -> Array:
    alphabet, common = _model().languages[language], _model().common
    return np.array(
        [
            alphabet.get(letter, -2 if letter in common else -1) if is_letter(char) else 0
            for char, letter in zip(chars, map(folded, chars), strict=True)
        ],
        np.int64,
    )


@functools.cache
def _languages_of(encoding: str) -> tuple[str, ...]:
    """The languages that an encoding is for: they are in its script, and it has nearly all of their letters."""
    chars = {folded(char) for char in _characters(encoding)}
    script = main_script(_characters(encoding))
    return tuple(
        name
        for name, alphabet in _model().languages.items()
        if main_script("".join(alphabet)) == script
        and sum(char not in chars for char in alphabet) <= 0.25 * len(alphabet)
    )


def main_script(chars: str) -> str:
    """The script of most of the letters beyond ASCII (Latin if there are none): the first word of their names."""
    scripts = Counter(unicodedata.name(char, " ").split(" ")[0] for char in chars if char > "\x7f" and is_letter(char))
    scripts["LATIN"] += scripts.pop("COMBINING", 0) + 1
    return scripts.most_common(1)[0][0]


def _surroundings(data: bytes) -> bytes:
    """The bytes of a text that are not ASCII, with what is around them."""
    array = np.frombuffer(data, np.uint8)
    high = np.flatnonzero(array & 0x80)
    near = np.zeros(len(array) + 1, np.int32)
    np.add.at(near, np.maximum(high - _AROUND, 0), 1)
    np.add.at(near, np.minimum(high + _AROUND + 1, len(array)), -1)
    return array[np.cumsum(near[:-1]) > 0][:_SAMPLE_BYTES].tobytes()


def _single_byte_costs(sample: bytes) -> list[tuple[str, str, float]]:
    array = np.frombuffer(b" " + sample + b" ", np.uint8).astype(np.int64)
    pairs, counts = np.unique(array[:-1] * 256 + array[1:], return_counts=True)
    if len(pairs) > _PAIRS:
        kept = np.argsort(-counts, kind="stable")[:_PAIRS]
        pairs, counts = pairs[kept], counts[kept] * (counts.sum() / counts[kept].sum())
    first, second = pairs >> 8, pairs & 255
    high = ((first | second) & 0x80).astype(bool)
    model = _model()

    def costs(encoding: str, languages: tuple[str, ...], chosen: Array, weight: float) -> Array:
        """The cost of the chosen pairs in each language."""
        symbols, one, two, n = _symbols_of(encoding), first[chosen], second[chosen], counts[chosen] * weight
        base = float(n @ _class_costs(symbols, one, two))
        letters = symbols.letters[two]
        one, two, n = one[letters], two[letters], n[letters]
        places = _places_of(encoding, languages)  # (languages, 256)
        which = np.array([model.numbers[language] for language in languages])[:, None]
        return base + model.costs[which, places[:, one], places[:, two]] @ n

    ascii_costs = dict(zip(model.languages, costs("cp1252", tuple(model.languages), ~high, _ASCII_WEIGHT), strict=True))
    return [
        (encoding, language, float(prior + ascii_costs[language] + cost))
        for encoding, prior in SINGLE_BYTE.items()
        for language, cost in zip(
            _languages_of(encoding), costs(encoding, _languages_of(encoding), high, 1.0), strict=True
        )
    ]


def _class_costs(symbols: _Symbols, first: Array, second: Array) -> Array:
    return _model().classes[symbols.classes[first], symbols.classes[second]] + symbols.own[second]


def _multi_byte_costs(sample: bytes) -> list[tuple[str, str, float]]:
    found = []
    for encoding, prior in MULTI_BYTE.items():
        text = sample.decode(encoding, "replace")
        n_bad = text.count("\ufffd")
        if not text or n_bad > 2 + 0.01 * len(text):
            continue
        symbols, places = np.unique(np.frombuffer(text.encode("utf-32-le"), "<u4"), return_inverse=True)
        for language, cost in _costs_of_chars([chr(code) for code in symbols], places, alphabetic=False).items():
            found.append((encoding, language, prior + cost + _UNDEFINED * n_bad))
    return found


def _costs_of_chars(chars: Sequence[str], places: Array, alphabetic: bool = True) -> dict[str, float]:
    """The cost of a text in each language; it is given as different characters, and their places in it.

    `alphabetic` says that languages with an alphabet are tried, not only Chinese, Japanese and Korean.
    """
    symbols = _symbols(chars)
    n = len(chars)
    pairs, counts = np.unique(places[:-1] * n + places[1:], return_counts=True)
    first, second = pairs // n, pairs % n
    high = np.array([char > "\x7f" for char in chars], bool)
    weights = np.where(high[first] | high[second], 1.0, _ASCII_WEIGHT) * counts
    base = float(weights @ _class_costs(symbols, first, second))
    model = _model()
    incoming = np.bincount(second, weights, n) * symbols.letters
    costs = {
        language: base + float(incoming @ np.array([_char_cost(char, language) for char in chars]))
        for language in model.ideographs
    }
    if not alphabetic:
        return costs
    letters = np.flatnonzero(symbols.letters[second])
    one, two, share = first[letters], second[letters], weights[letters]
    own_scripts = {char for char in chars if char > "\x7f" and is_letter(char)}
    for name, alphabet in model.languages.items():
        if own_scripts and sum(folded(char) in alphabet for char in own_scripts) < 0.3 * len(own_scripts):
            continue
        at = _places(chars, name)
        costs[name] = base + float(share @ model.costs[model.numbers[name]][at[one], at[two]])
    return costs


@functools.lru_cache(2**16)
def _char_cost(char: str, language: str) -> float:
    """The cost of a character in Chinese, Japanese or Korean: by its rank, or by the part of the standard it is in."""
    if char <= "\x7f":
        return 4.5
    rank = _model().ideographs[language].get(char)
    if rank is not None:
        return float(np.log((rank + 15) * 4.5))
    if _is_usual(char, language):
        return 10.0
    return 13.5 if is_letter(char) and char >= "\u3040" else 15.0


def _is_usual(char: str, language: str) -> bool:
    """Whether a national standard has this character among the usual ones."""
    codec, first, last = {
        "zh": ("gb2312", b"\xb0", b"\xd7\xff"),
        "zh-hant": ("big5", b"\xa4", b"\xc6\xff"),
        "ja": ("euc_jp", b"\xa4", b"\xcf\xff"),
        "ko": ("euc_kr", b"\xb0", b"\xc8\xff"),
    }[language]
    try:
        code = char.encode(codec)
    except UnicodeEncodeError:
        return False
    return len(code) == 2 and first <= code <= last
