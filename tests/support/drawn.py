"""Checks of figures that matplotlib has laid out."""

from __future__ import annotations

from matplotlib.axes import Axes


def assert_inside(axes: Axes) -> None:
    frame = axes.get_window_extent()
    for text in axes.texts:
        box = text.get_window_extent()
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1, text
        assert frame.y0 <= box.y0 <= box.y1 <= frame.y1, text
