"""The figures of a run, sorted by theme; those that `figure` decorates are on the report page.

Worth knowing:

- To add a figure, write its function in the module of its theme and decorate it with `figure`, which says where on the
  page it goes and what it is drawn from.
- A function takes numbers from the reports and returns a matplotlib Figure, or None when there is nothing to draw (a
  stage has not run, a column is empty). It draws what there is otherwise: one evaluation, a modality without files, a
  NaN in the middle of a curve.
- A title says what the figure shows, with its number: "Validation: 1.329 bits per byte, xz 1.430".
- Figures are made without pyplot, which keeps global state; the style applies inside these functions only.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from llm.config import Params
from llm.report.figures import data, embeddings, evaluation, generation, training  # noqa: F401  # they register figures
from llm.report.figures.registry import FIGURES, FigureSpec, figure
from llm.report.figures.style import png, title_of
from llm.report.reports import Reports

__all__ = ["FIGURES", "FigureSpec", "draw_figures", "figure", "png", "title_of"]


def draw_figures(reports: Reports, params: Params) -> dict[str, Figure]:
    """The figures that there are numbers for, by name."""
    drawn = {spec.name: spec.draw(reports, params) for spec in FIGURES}
    return {name: one for name, one in drawn.items() if one is not None}
