"""Probabilities of tokens as bars, a row of panels per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tasks.reports.canvas import INK, canvas, color, need

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Panel(NamedTuple):
    """Probabilities of a few tokens.

    Attributes:
        title: stands above.
        tokens: one label per bar.
        series: name -> one probability per token, such as before and after the controls.
        chosen: the index of the token that is marked.
    """

    title: str
    tokens: Sequence[str]
    series: Mapping[str, Sequence[float]]
    chosen: int


def plot_distributions(path: Path, rows: Sequence[Sequence[Panel]], title: str = "") -> None:
    """A row of panels per step, bars for each token: all on the scale from 0 to 1, so that they compare.

    Args:
        path: the PNG to write.
        rows: the panels of each step, equally many.
        title: stands above the panels.
    """
    need(bool(rows), path, "no step", "a row of panels per step")
    heights = [max(len(panel.tokens) for panel in row) for row in rows]
    with canvas(
        path, (4.2 * len(rows[0]) + 0.4, 0.7 + sum(0.5 + 0.24 * height for height in heights)), title
    ) as figure:
        grid = figure.subplots(len(rows), len(rows[0]), squeeze=False, gridspec_kw={"height_ratios": heights})
        for panels, row in zip(rows, grid, strict=True):
            for panel, axes in zip(panels, row, strict=True):
                _distribution(axes, panel)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels))


def _distribution(axes: Axes, panel: Panel) -> None:
    thickness = 0.8 / len(panel.series)
    for index, (name, values) in enumerate(panel.series.items()):
        offset = (index + 0.5) * thickness - 0.4
        axes.barh([row + offset for row in range(len(values))], values, thickness, color=color(index), label=name)
    axes.set(xlim=(0, 1), ylim=(len(panel.tokens) - 0.5, -0.5))
    axes.set_xticks((0, 0.5, 1), ("0", "50 %", "100 %"))
    labels = [f"▸ {token}" if row == panel.chosen else token for row, token in enumerate(panel.tokens)]
    axes.set_yticks(range(len(labels)), labels)
    axes.get_yticklabels()[panel.chosen].set(fontweight="bold", color=INK)
    for text in (axes.set_title(panel.title, fontsize=9), *axes.get_yticklabels()):
        text.set_parse_math(False)  # a token may hold a dollar sign
    axes.tick_params(length=0)
    axes.grid(axis="x")
