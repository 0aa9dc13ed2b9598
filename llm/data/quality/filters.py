"""Filters that leave out texts: one small class per rule, whose fields are its keys in params.yaml.

Worth knowing:

- A filter returns why it leaves a text out, or an empty string. The reason in the manifest begins with the filter's
  name, by which the report counts, and names the parameter that decided.
- A threshold of None turns its rule off. Filters are plain values: picklable, and the same in every process.
- Which modalities are prose, `llm.data.modalities` says. The rules for prose would throw out good code, which is full
  of symbols and of lines that repeat; code has rules of its own.
- Most rules are those of Gopher (Rae et al. 2021, section A1.1). docs/quality.md says what each default removes, and
  why some are looser than the paper's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any, ClassVar

import numpy as np

from llm.config import FilterParams
from llm.data.modalities import MODALITIES, PROSE, SOURCE_CODE, WITH_PAGES, Modality
from llm.data.quality.repetition import DUPLICATE_SIZES, TOP_SIZES, Ngrams, Words, repeats
from llm.errors import UserError

_LETTER_OR_DIGIT = re.compile(r"[^\W_]")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


@dataclass(frozen=True)
class Candidate:
    """A text that may become a document; `ocr_confidence` is the mean over its recognized lines, if there are any."""

    text: str
    modality: Modality
    ocr_confidence: float | None = None

    @cached_property
    def words(self) -> Words:
        """Runs of characters without white space; leader dots, table rules and the like do not count."""
        words = self.text.split()
        rules = [word for word in set(words) if not (word[0].isalnum() or _LETTER_OR_DIGIT.search(word))]
        return Words.of(words).without(rules)

    @cached_property
    def n_words(self) -> int:
        """Words, or 1 if there are none."""
        return max(1, len(self.words.lengths))

    @cached_property
    def n_word_chars(self) -> int:
        """Characters of the words."""
        return int(self.words.lengths.sum())


class Filter:
    """One rule; its fields have the names of the parameters that they hold."""

    name: ClassVar[str]
    modalities: ClassVar[tuple[Modality, ...]]

    def reason(self, candidate: Candidate) -> str:
        """Why the text is left out, or an empty string if it is kept."""
        raise NotImplementedError

    def _because(self, what: str, key: str) -> str:
        return f"{what}, and filters.{key} is {getattr(self, key)}"


@dataclass(frozen=True)
class OcrConfidence(Filter):
    """Text that was recognized badly: handwriting, photographs, noise."""

    name = "badly recognized"
    modalities = WITH_PAGES
    min_ocr_confidence: float | None

    def reason(self, candidate: Candidate) -> str:
        """See `Filter`."""
        confidence, limit = candidate.ocr_confidence, self.min_ocr_confidence
        if confidence is None or limit is None or confidence >= limit:
            return ""
        return self._because(f"mean confidence {confidence:.2f}", "min_ocr_confidence")


@dataclass(frozen=True)
class Symbols(Filter):
    """Gopher's symbol-to-word ratio: hash signs and ellipses, which abound in lists of links and cut-off texts."""

    name = "too many symbols"
    modalities = PROSE
    max_symbol_ratio: float | None

    def reason(self, candidate: Candidate) -> str:
        """See `Filter`."""
        text = candidate.text
        ratio = (text.count("#") + text.count("...") + text.count("…")) / candidate.n_words
        if self.max_symbol_ratio is None or ratio <= self.max_symbol_ratio:
            return ""
        return self._because(f"{ratio:.2f} hash signs and ellipses per word", "max_symbol_ratio")


@dataclass(frozen=True)
class Digits(Filter):
    """Tables of numbers, and lists of hashes and dates."""

    name = "too many digits"
    modalities = PROSE
    max_digit_ratio: float | None

    def reason(self, candidate: Candidate) -> str:
        """See `Filter`."""
        data = np.frombuffer(candidate.text.encode(errors="replace"), np.uint8)
        ratio = int(np.count_nonzero(data - ord("0") < 10)) / max(1, candidate.n_word_chars)  # others wrap around
        if self.max_digit_ratio is None or ratio <= self.max_digit_ratio:
            return ""
        return self._because(f"{ratio:.0%} of the characters in words", "max_digit_ratio")


@dataclass(frozen=True)
class WordLength(Filter):
    """Letters that stand apart, or words that run together; scripts written without spaces are let through."""

    name = "odd word length"
    modalities = PROSE
    min_mean_word_length: float | None
    max_mean_word_length: float | None

    def reason(self, candidate: Candidate) -> str:
        """See `Filter`."""
        mean = candidate.n_word_chars / candidate.n_words
        found = f"mean word length {mean:.1f}"
        if self.min_mean_word_length is not None and mean < self.min_mean_word_length:
            key = "min_mean_word_length"
        elif self.max_mean_word_length is not None and mean > self.max_mean_word_length:
            key = "max_mean_word_length"
        else:
            return ""
        return "" if is_unspaced(candidate.text, candidate.n_word_chars) else self._because(found, key)


@dataclass(frozen=True)
class Repetition(Filter):
    """Lines, paragraphs or phrases over and over (Gopher, table A1): logs, listings, filled-in templates."""

    name = "repetitive"
    modalities = PROSE
    max_duplicate_lines: float | None
    max_duplicate_line_chars: float | None
    max_duplicate_paragraphs: float | None
    max_duplicate_paragraph_chars: float | None
    max_top_2gram: float | None
    max_top_3gram: float | None
    max_top_4gram: float | None
    max_duplicate_5gram: float | None
    max_duplicate_6gram: float | None
    max_duplicate_7gram: float | None
    max_duplicate_8gram: float | None
    max_duplicate_9gram: float | None
    max_duplicate_10gram: float | None

    def reason(self, candidate: Candidate) -> str:
        """See `Filter`."""
        n_chars = len(candidate.text)
        for unit, separator in (("line", "\n"), ("paragraph", "\n\n")):
            parts = [part for part in candidate.text.split(separator) if part and not part.isspace()]
            n_repeated, repeated_chars = repeats(parts)
            if self._exceeds(f"max_duplicate_{unit}s", n_repeated, len(parts)):
                what = f"{n_repeated / len(parts):.0%} of the {unit}s repeat earlier ones"
                return self._because(what, f"max_duplicate_{unit}s")
            if self._exceeds(f"max_duplicate_{unit}_chars", repeated_chars, n_chars):
                what = f"{repeated_chars / n_chars:.0%} of the characters are in repeated {unit}s"
                return self._because(what, f"max_duplicate_{unit}_chars")
        ngrams = Ngrams(candidate.words)
        limits = [limit for n in TOP_SIZES if (limit := getattr(self, f"max_top_{n}gram")) is not None]
        for n in TOP_SIZES if limits and ngrams.top_bound() > min(limits) * n_chars else ():
            key, top = f"max_top_{n}gram", ngrams.top_chars(n)
            if self._exceeds(key, top, n_chars):
                return self._because(f"{top / n_chars:.0%} of the characters are one run of {n} words", key)
        limits = [limit for n in DUPLICATE_SIZES if (limit := getattr(self, f"max_duplicate_{n}gram")) is not None]
        for n in DUPLICATE_SIZES if limits else ():
            key, repeated = f"max_duplicate_{n}gram", ngrams.duplicate_chars(n)
            if self._exceeds(key, repeated, n_chars):
                return self._because(
                    f"{repeated / n_chars:.0%} of the characters are in repeated runs of {n} words", key
                )
            if repeated <= min(limits) * n_chars:  # longer runs repeat no more than this
                break
        return ""

    def _exceeds(self, key: str, part: int, whole: int) -> bool:
        limit = getattr(self, key)
        return limit is not None and part > limit * whole


@dataclass(frozen=True)
class Minified(Filter):
    """Code that was packed for machines: nearly all of it in very long lines, and hardly a blank."""

    name = "minified code"
    modalities = SOURCE_CODE
    minified_line_chars: int | None
    minified_max_blanks: float

    def reason(self, candidate: Candidate) -> str:
        """See `Filter`."""
        text, limit = candidate.text, self.minified_line_chars
        if limit is None or len(text) <= limit:
            return ""
        in_long_lines = sum(length for line in text.split("\n") if (length := len(line)) > limit)
        n_blanks = text.count(" ") + text.count("\n") + text.count("\t")
        if 2 * in_long_lines <= len(text) or n_blanks > self.minified_max_blanks * len(text):
            return ""
        share = f"{in_long_lines / len(text):.0%} of it in long lines, {n_blanks / len(text):.0%} blanks"
        return self._because(share, "minified_line_chars")


@dataclass(frozen=True)
class Generated(Filter):
    """Code that a program wrote, and says so at the top."""

    name = "generated code"
    modalities = SOURCE_CODE
    drop_generated_code: bool

    _n_lines: ClassVar = 15
    _marker: ClassVar = re.compile(
        r"@generated\b"
        r"|\bauto(?:matically)?[ -]?generated(?: (?:by|from|using|with|on|file|code|source|module|header)\b|\W*$)"
        r"|^\W*(?:this (?:\w+ )?(?:file|code|module|header|script) (?:was|is|has been) |code )?"
        r"generated (?:by|from|using)\b"
        r"|\bgenerated from [\"'<]"
        r"|\bdo not (?:edit|modify)(?:\W*$|\W+(?:this file|by hand|manually|it|directly)\b)",
        re.IGNORECASE,
    )

    def reason(self, candidate: Candidate) -> str:
        """See `Filter`."""
        if not self.drop_generated_code:
            return ""
        head = candidate.text[:4096].split("\n", self._n_lines)[: self._n_lines]
        marked = next((line.strip() for line in head if self._marker.search(line)), "")
        return f'it says "{marked[:80]}"' if marked else ""


@dataclass(frozen=True)
class Language(Filter):
    """Prose in a language that was not asked for, by py3langid, whose model comes in its wheel (an optional extra)."""

    name = "other language"
    modalities = PROSE
    languages: tuple[str, ...]
    _n_chars: ClassVar = 4000  # from the middle: the first page is often a title and a license

    def reason(self, candidate: Candidate) -> str:
        """See `Filter`."""
        if not self.languages:
            return ""
        start = max(0, len(candidate.text) - self._n_chars) // 2
        language, probability = _identifier().classify(candidate.text[start : start + self._n_chars])
        if language in self.languages:
            return ""
        return f"{language} (probability {probability:.2f}), and filters.languages is {', '.join(self.languages)}"


@dataclass(frozen=True)
class Length(Filter):
    """Texts of a few words, from which little can be learned."""

    name = "too short"
    modalities = MODALITIES
    min_chars: int

    def reason(self, candidate: Candidate) -> str:
        """See `Filter`."""
        n_chars = len(candidate.text.strip())
        return self._because(f"{n_chars} characters", "min_chars") if n_chars < self.min_chars else ""


FILTERS: tuple[type[Filter], ...] = (  # cheap ones first; the length last, as other reasons say more
    OcrConfidence,
    Generated,
    Minified,
    Symbols,
    Digits,
    WordLength,
    Repetition,
    Language,
    Length,
)


def make_filters(params: FilterParams) -> list[Filter]:
    """All filters with their parameters.

    Raises:
        UserError: languages are asked for, but the package that tells them apart is not installed.
    """
    if params.languages:
        _identifier()
    return [rule(**{field.name: getattr(params, field.name) for field in fields(rule)}) for rule in FILTERS]  # type: ignore[arg-type]


def objection(candidate: Candidate, filters: Iterable[Filter]) -> str:
    """Why the first filter that objects leaves the text out, or an empty string if none does."""
    for rule in filters:
        if candidate.modality in rule.modalities and (reason := rule.reason(candidate)):
            return f"{rule.name}: {reason}"
    return ""


def too_short(text: str, params: FilterParams) -> str:
    """Why a text is too short to be kept, or an empty string if it is not."""
    return objection(Candidate(text, "text"), [Length(params.min_chars)])


def is_unspaced(text: str, n_chars: int) -> bool:
    """Whether over a tenth of a text's `n_chars` characters are of scripts that are written without spaces."""
    return not text.isascii() and sum(map(len, _UNSPACED.findall(text))) > 0.1 * n_chars


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ModuleNotFoundError:
        raise UserError("filters.languages needs py3langid: pip install 'folder-to-llm[languages]'") from None
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
