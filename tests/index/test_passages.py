"""Search over passages against a search through all of them, and the passages against the documents."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from llm.data.documents import Document, read_documents, write_shards
from llm.errors import DamagedFileError, UserError
from llm.index.passages import PassageIndex, build_passages, cut, write_no_passages
from tests.conftest import Corpus, make_document


@pytest.fixture(scope="module")
def index(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> PassageIndex:
    folder = tmp_path_factory.mktemp("passages") / "passages"
    build_passages(corpus.documents, folder)
    return PassageIndex(folder, corpus.documents)


def index_of(documents: list[Document], folder: Path) -> PassageIndex:
    write_shards(documents, folder / "documents")
    build_passages(folder / "documents", folder / "passages")
    return PassageIndex(folder / "passages", folder / "documents")


def squeezed(text: str) -> str:
    return "".join(text.split())


def test_passages_hold_all_text_in_order_and_no_more_than_they_may(corpus: Corpus) -> None:
    for document in read_documents(corpus.documents):
        passages = [text for _, text in cut(document, 300)]
        assert squeezed("".join(passages)) == squeezed(document.text)
        assert all(len(text) <= 300 for text in passages)


def test_lines_are_those_at_which_passages_begin(corpus: Corpus) -> None:
    for document in read_documents(corpus.documents):
        lines = document.text.split("\n")
        for place, text in cut(document, 300):
            number = int(place.removeprefix("line "))
            assert text.split("\n")[0].rstrip() in lines[number - 1]


def test_passages_end_with_paragraphs_lines_sentences_or_words() -> None:
    def texts(text: str) -> list[str]:
        return [passage for _, passage in cut(make_document(text), 20)]

    assert texts("one two three\n\nfour five\nsix seven") == ["one two three", "four five\nsix seven"]
    assert texts("one two three\nfour five six") == ["one two three", "four five six"]
    assert texts("One two three. Four five six.") == ["One two three.", "Four five six."]
    assert texts("x" * 50) == ["x" * 20, "x" * 20, "x" * 10]
    assert texts("def f(a, b):\n\n    return 1\n") == ["def f(a, b):", "    return 1"]


def test_no_passage_crosses_from_a_page_into_the_next() -> None:
    text = "title\n" + "a " * 30 + "\n" + "b " * 30
    places = ((6, "p. 1"), (67, "p. 2"))
    passages = [*cut(replace(make_document(text, modality="pdf"), places=places), 50)]
    assert [place for place, _ in passages] == ["", "p. 1", "p. 1", "p. 2", "p. 2"]
    assert all("b" not in text for place, text in passages if place == "p. 1")
    assert all("a" not in text for place, text in passages if place == "p. 2")


@pytest.mark.parametrize("query", ["import", "return self", '"return self"', "os.path", "SELF None", "in is not"])
def test_passages_with_all_words_are_those_that_a_search_through_all_finds(
    corpus: Corpus, index: PassageIndex, query: str
) -> None:
    terms = [query.strip('"')] if query[0] == '"' else query.split()
    regexes = [
        re.compile(r"(?<![^\W_])" + r"[\W_]+".join(re.findall(r"[^\W_]+", one)) + r"(?![^\W_])", re.IGNORECASE)
        for one in terms
    ]
    expected = {
        (document.source, place, text)
        for document in read_documents(corpus.documents)
        for place, text in cut(document)
        if all(regex.search(text) for regex in regexes)
    }
    found = index.search(query, -1)
    assert found.match == "all"
    assert {(one.source, one.place, one.text) for one in found.passages} == expected
    assert len(found.passages) == len(expected) > 0
    for passage in found.passages:
        matched = [passage.text[start:end] for start, end in passage.matches]
        assert all(any(regex.fullmatch(text) for text in matched) for regex in regexes)
    assert index.search(query, 2).passages == found.passages[:2]


def test_words_of_all_scripts_are_found(tmp_path: Path) -> None:
    texts = {
        "français.txt": "Un café crème, s'il vous plaît",
        "日本.txt": "吾輩は猫である。名前はまだ無い。",
        "中文.txt": "敏捷的棕色狐狸跳过懒狗",
        "हिन्दी.txt": "यह हिन्दी भाषा में है",
        "ไทย.txt": "ภาษาไทยเขียนติดกัน",
        "русский.txt": "Съешь же ещё этих булок",
        "한국어.txt": "다람쥐 헌 쳇바퀴에 타고파",
    }
    index = index_of([make_document(text, source=source) for source, text in texts.items()], tmp_path)
    queries = {
        **{"cafe creme": "français.txt", "CAFÉ": "français.txt", "猫である": "日本.txt", "棕色 懒狗": "中文.txt"},
        **{"हिन्दी": "हिन्दी.txt", "ไทย": "ไทย.txt", "БУЛОК": "русский.txt", "헌": "한국어.txt"},
    }
    for query, source in queries.items():
        found = index.search(query, 10)
        assert (found.match, [one.source for one in found.passages]) == ("all", [source]), query
        assert found.passages[0].matches, query
    assert [one.text[a:b] for one in index.search("cafe", 1).passages for a, b in one.matches] == ["café"]


def test_a_query_that_no_passage_has_whole_falls_back_to_beginnings_and_then_to_some_of_its_words(
    tmp_path: Path,
) -> None:
    index = index_of([make_document("licensed software"), make_document("free beer", source="b.txt")], tmp_path)
    assert index.search("soft licens", 9).match == "beginnings"
    found = index.search("what is beer software", 9)
    assert (found.match, len(found.passages)) == ("any", 2)
    assert index.search("nothing", 9).passages == []


@pytest.mark.parametrize(
    "query", ['a" OR "b', "NEAR(a b)", "text:alpha", "alpha*", "a AND", "(", "'; DROP", '"alpha', "^a", "a\0b"]
)
def test_no_character_of_a_query_is_syntax(tmp_path: Path, query: str) -> None:
    index = index_of([make_document("alpha and near or not a b")], tmp_path)
    if re.search(r"\w", query):
        index.search(query, 9)
    else:
        with pytest.raises(UserError, match="no word to search for"):
            index.search(query, 9)
    assert index.search("alpha", 9).passages


def test_only_documents_of_a_modality_are_found(tmp_path: Path) -> None:
    index = index_of([make_document("alpha"), make_document("alpha beta", modality="pdf", source="b.pdf")], tmp_path)
    assert [one.source for one in index.search("alpha", 9, "pdf").passages] == ["b.pdf"]


def test_no_documents_no_passages(tmp_path: Path) -> None:
    assert index_of([], tmp_path).search("alpha", 9).passages == []


def test_the_same_documents_give_the_same_bytes(corpus: Corpus, index: PassageIndex, tmp_path: Path) -> None:
    build_passages(corpus.documents, tmp_path / "again")
    assert (tmp_path / "again" / index.path.name).read_bytes() == index.path.read_bytes()


def test_an_index_that_cannot_be_used_says_what_to_do(tmp_path: Path) -> None:
    index = index_of([make_document("alpha")], tmp_path)
    documents, folder = tmp_path / "documents", tmp_path / "passages"
    write_shards([make_document("beta")], tmp_path / "others")
    with pytest.raises(UserError, match=r"was made from other documents .* run `dvc repro index`"):
        PassageIndex(folder, tmp_path / "others")
    index.path.write_bytes(b"\0" * index.path.stat().st_size)
    with pytest.raises(DamagedFileError, match="cannot be searched"):
        PassageIndex(folder, documents).search("alpha", 1)
    index.path.write_bytes(b"")
    with pytest.raises(DamagedFileError, match="missing or cut off"):
        PassageIndex(folder, documents)
    write_no_passages(folder)
    with pytest.raises(UserError, match="search is switched off"):
        PassageIndex(folder, documents)
    with pytest.raises(FileNotFoundError, match="run the index stage first"):
        PassageIndex(tmp_path / "nowhere", documents)


def test_searching_writes_nothing(tmp_path: Path) -> None:
    index = index_of([make_document("alpha")], tmp_path / "odd name?#%41")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert index.search("alpha", 1).passages
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
