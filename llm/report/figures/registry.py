"""The `figure` decorator: it styles a drawing function and puts it on the report page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec

from matplotlib.figure import Figure

from llm.config import Params
from llm.report.figures.style import styled
from llm.report.reports import Reports

P = ParamSpec("P")


@dataclass(frozen=True)
class FigureSpec:
    """A figure of the page.

    Attributes:
        name: the stem of its file in reports/plots/.
        section: the section of the page that shows it.
        stage: the stage that reports its numbers.
        caption: how to read it.
        inputs: the arguments of `function`, taken from the reports and the parameters.
        function: draws it, or returns None when there is nothing to draw.
        wide: whether it takes the whole width of the page.
    """

    name: str
    section: str
    stage: str
    caption: str
    inputs: Callable[[Reports, Params], tuple[Any, ...]]
    function: Callable[..., Figure | None]
    wide: bool = False

    def draw(self, reports: Reports, params: Params) -> Figure | None:
        """The figure of a run; None when there is nothing to draw."""
        return self.function(*self.inputs(reports, params))


FIGURES: list[FigureSpec] = []  # those of a section in the order of the page


def figure(
    name: str,
    *,
    section: str,
    stage: str,
    caption: str,
    inputs: Callable[[Reports, Params], tuple[Any, ...]],
    wide: bool = False,
) -> Callable[[Callable[P, Figure | None]], Callable[P, Figure | None]]:
    """Put a drawing function on the report page; see `FigureSpec` for the arguments.

    Raises:
        ValueError: there is a figure of this name already.
    """
    if any(spec.name == name for spec in FIGURES):
        raise ValueError(f"figure {name!r} is registered twice: figures are saved under their names")

    def register(function: Callable[P, Figure | None]) -> Callable[P, Figure | None]:
        function = styled(function)
        FIGURES.append(FigureSpec(name, section, stage, caption, inputs, function, wide))
        return function

    return register
