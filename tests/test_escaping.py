"""Names and texts of other people's files are data in every format: each is read back by an independent parser."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from llm.config import load_params
from llm.data.ingest.statistics import summary
from llm.escaping import one_line, printable, table_cell
from llm.evaluate import continuations_as_text
from llm.files import json_text, write_csv, write_json
from llm.interchange.model_card import write_model_card
from llm.report.figures.style import new_figure, png, set_title, styled
from tests.conftest import PARAMS_FILE

MARKUP = ["<script>", "</script>", "<!--", "]]>", "[a](b)", "`", "```", "|", "$x$", "{{ 7 }}", "=1+1", ";=1", "---"]
CONTROLS = ["\x1b[31m", "\x1b]0;t\x07", "\x9b2J", "\x85", "\x7f", "\r", "\n", "\t", "\0", "\u2028", "\u202e", "\u2066"]
texts = st.lists(st.one_of(st.sampled_from([*MARKUP, *CONTROLS]), st.text(max_size=6)), max_size=6).map("".join)
BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def obeyed(text: str) -> set[str]:
    """What a terminal would carry out instead of showing it."""
    return {c for c in text if ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000}


def is_one_safe_line(text: str) -> bool:
    reordered = any(unicodedata.bidirectional(c) in BIDIRECTIONAL or c in "\u200e\u200f\u061c" for c in text)
    return not obeyed(text) and len(text.splitlines()) <= 1 and not reordered


@settings(deadline=None)
@given(texts)
def test_a_name_is_one_line_that_a_terminal_only_shows(text: str) -> None:
    assert is_one_safe_line(one_line(text))
    assert obeyed(printable(text)) <= {"\n", "\t"}
    assert printable(text).count("\n") == text.count("\n")


@pytest.mark.parametrize(
    "text",
    [
        *("a b-c_d (1).txt", "C:\\new", "Résumé ½ x²", "10\u00a0€", "世界\u3000한국어 ไทย"),
        *("שלום עולם", "می\u200cخواهم", "👩\u200d💻 👍🏽"),
    ],
)
def test_words_of_all_scripts_stay_as_they_are(text: str) -> None:
    assert one_line(text) == printable(text) == table_cell(text) == text


@settings(deadline=None)
@given(texts)
def test_json_is_read_back_as_it_was(text: str) -> None:
    written = json_text({text: [text]}, indent=2)
    assert obeyed(written) <= {"\n"}
    assert not any(unicodedata.bidirectional(c) in BIDIRECTIONAL for c in written)
    # Two lone surrogates that belong together are one character in JSON.
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert json.loads(written) == {whole: [whole]}


@settings(deadline=None)
@given(st.lists(st.tuples(texts, st.floats(allow_nan=False), st.integers()), min_size=1, max_size=4))
@example([("=HYPERLINK(A1).txt", -1.5, -3), ("a;=1+1", 1e-9, 0), ("\t=1", 0.0, 1), ("a</script>", 0.0, 1)])
def test_a_cell_is_neither_a_formula_nor_a_tag_and_numbers_stay(rows: list[tuple[str, float, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.csv")
        write_csv(path, [{"source": text, "score": score, "count": count} for text, score, count in rows])
        written = path.read_text(encoding="utf-8")
    heading, *read = csv.reader(io.StringIO(written))
    assert heading == ["source", "score", "count"]
    assert [(float(score), int(count)) for _, score, count in read] == [(score, count) for _, score, count in rows]
    for source, _, _ in read:
        assert is_one_safe_line(source)
        assert not re.search(r"<[a-zA-Z/!?]", source)
    for delimiter in ",;\t|":  # whichever a spreadsheet splits lines at, after the columns of numbers
        for row in csv.reader(io.StringIO("\n".join(one[0] for one in read)), delimiter=delimiter):
            assert not [cell for cell in row if re.match(r"\s*[=+\-@＝＋－＠]", cell)]


def test_tables_and_rows_are_written_alike(tmp_path: Path) -> None:
    rows = [{"token": "@x", "n": -1}, {"token": "plain, with comma", "n": 2}]
    write_csv(tmp_path / "rows.csv", rows)
    write_csv(tmp_path / "table.csv", pd.DataFrame(rows))
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "table.csv").read_bytes()
    assert pd.read_csv(tmp_path / "rows.csv").to_dict("list") == {"token": ["'@x", "plain, with comma"], "n": [-1, 2]}
    write_csv(tmp_path / "empty.csv", [], ["kind", "word_f1"])
    assert (tmp_path / "empty.csv").read_text() == "kind,word_f1\n"


@settings(deadline=None)
@given(texts)
def test_continuations_hold_no_control_sequence_and_no_forged_heading(text: str) -> None:
    one = {"modality": "text", "source": text, "prompt": text, "continuation": text, "reference": text}
    shown = continuations_as_text([one])
    assert obeyed(shown) <= {"\n", "\t"}
    bar, name, other, _ = shown.split("\n", 3)
    assert bar == other == "=" * 100
    assert name == f"text: {one_line(text)}"


@settings(deadline=None)
@given(texts)
def test_the_summary_of_ingest_has_one_line_for_each_count(text: str) -> None:
    counts = {"files": 1, "kept": 1, "pages": 0, "chars": 9}
    report = {
        "modality": {"text": counts},
        "files": {"total": 1},
        "documents": {"total": 1},
        "scrubbed": {},
        "boilerplate": {"lines": 0},
        "reasons": {text: 1},
        "kept_in_part": 0,
        "not_read": {"files": 1, "by_kind": {text: 2}},
        "extraction": {},
    }
    assert [is_one_safe_line(line) for line in summary(report).split("\n")] == [True] * 5


def model_card(name: str) -> str:
    """A card that has this name in every place."""
    score = {"bpb": 1.5, "perplexity": 2.0, "n_bytes": 3, "modality": {name: {"bpb": 1.5}}}
    provenance = {"train": {"init_from": name, name: name}, "torch": name, "code_sha256": name}
    config, reports, origin = {"vocab_size": 300, "provenance": provenance}, {"evaluate": {"test": score}}, {name: name}
    return write_model_card(name, config, load_params(PARAMS_FILE).model, 1000, reports, [name], [], origin)


@settings(deadline=None, max_examples=30)
@given(texts.filter(bool))
@example("a`b``c` | <b> $x$ [y](z)")
def test_the_model_card_shows_names_as_they_are(name: str) -> None:
    card = model_card(name)
    assert obeyed(card) <= {"\n"}
    _, header, body = re.split("^---\n", card, maxsplit=2, flags=re.M)
    assert yaml.safe_load(header)["model-index"][0]["name"] == one_line(name)
    parser = MarkdownIt("commonmark").enable("table")
    blocks = parser.parse(body)
    # The same headings, tables and rows as with a harmless name, and in them only text and code.
    harmless = parser.parse(model_card("a").split("\n---\n", 1)[1])
    assert [block.type for block in blocks] == [block.type for block in harmless]
    inline = [child for block in blocks for child in block.children or ()]
    assert {child.type for child in inline} <= {"text", "text_special", "softbreak", "code_inline"}
    assert one_line(name).strip() in {child.content.strip() for child in inline if child.type == "code_inline"}


def test_dollar_signs_in_a_figure_are_no_formulas() -> None:
    @styled
    def draw(title: str) -> bytes:
        figure, ax = new_figure(2, 2)
        set_title(figure, title)
        ax.set_yticks([0], ["$\\frac{$ and $2$"])
        return png(figure, 50)

    assert draw("$no\\such{command}$") != draw("")


def test_write_json_goes_through_the_same_escapes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"source": "a\x9b2J\u202e"})
    assert (tmp_path / "a.json").read_bytes().isascii()
    assert json.loads((tmp_path / "a.json").read_text()) == {"source": "a\x9b2J\u202e"}
