from __future__ import annotations

from llm.data.readers.reading_order import Line, reading_order


def column(name: str, left: float, right: float, top: float, n_lines: int, pitch: float = 30) -> list[Line]:
    return [Line(f"{name} {row}", left, top + pitch * row, right, top + pitch * row + 20) for row in range(n_lines)]


def words(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def test_reading_order_of_columns_rows_and_paragraphs() -> None:
    left = [Line(f"left {row}", 0, 30 * row, 400, 30 * row + 20) for row in range(6)]
    right = [Line(f"right {row}", 450, 30 * row + 3, 850, 30 * row + 23) for row in range(6)]
    assert reading_order(left[::-1] + right) == "\n".join(f"left {n}" for n in range(6)) + "\n\n" + "\n".join(
        f"right {n}" for n in range(6)
    )
    # A label and its value belong together, however far apart they are.
    form = [
        line
        for n in range(6)
        for line in (Line(f"{n}.", 0, 30 * n, 20, 30 * n + 20), Line(f"value {n}", 450, 30 * n, 800, 30 * n + 20))
    ]
    assert reading_order(form) == "\n".join(f"{n}. value {n}" for n in range(6))
    gap = [Line("a", 0, 0, 90, 20), Line("b", 0, 30, 90, 50), Line("c", 0, 100, 90, 120), Line("d", 0, 130, 90, 150)]
    assert reading_order(gap) == "a\nb\n\nc\nd"
    assert reading_order([]) == ""


def test_a_title_over_two_columns_and_a_table_below() -> None:
    title = [Line("title", 150, 0, 700, 40)]
    left, right = column("left", 0, 400, 80, 8), column("right", 450, 850, 83, 6)
    caption = [Line("a caption over both columns", 100, 350, 760, 370)]
    below, beside = column("below", 0, 400, 400, 5), column("beside", 450, 850, 400, 5)
    found = reading_order([*beside, *right, *title, *below, *caption, *left]).split("\n")
    assert [line for line in found if line] == words([*title, *left, *right, *caption, *below, *beside])


def test_a_narrow_sidebar_is_read_by_itself() -> None:
    main, side = column("main", 0, 600, 0, 14), column("side", 650, 800, 8, 10, pitch=23)
    found = reading_order([*side, *main]).split("\n")
    assert [line for line in found if line] == words([*main, *side])


def test_columns_below_a_part_in_one_column() -> None:
    above = column("above", 0, 850, 0, 6)
    left, right = column("left", 0, 400, 260, 5), column("right", 450, 850, 260, 5)
    found = reading_order([*right, *left, *above]).split("\n")
    assert [line for line in found if line] == words([*above, *left, *right])
