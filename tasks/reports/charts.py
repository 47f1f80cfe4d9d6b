"""Pictures and the page of a night, for the stages that measure: bars, win rate, scores, curves, side by side.

Every function takes plain figures and writes one file whole. The bytes depend on the figures alone: no
date, no program name, no setting of the user's own matplotlib. The same figures give the same digest.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.files import write_text
from tasks.reports.page import SideBySide, comparison_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#1d2733", "#6b7785", "#e3e7ec"
COLORS = ("#94a3b8", "#0f766e", "#d97706", "#7c3aed", "#be123c", "#2563eb")
STYLE: dict[str, Any] = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
}


def plot_bars(path: Path, table: Mapping[str, Mapping[str, float]], title: str = "") -> None:
    """One panel per figure, one bar per model, each on a scale of its own.

    Args:
        path: the PNG to write.
        table: model -> figure -> value; a model without a figure has no bar there.
        title: stands above the panels.
    """
    names = list(dict.fromkeys(name for figures in table.values() for name in figures))
    _need(bool(names), path, "no figure", "a table of model -> figure -> value")
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    height = 0.55 + rows * (0.62 + 0.28 * len(table))
    with _figure(path, (2.4 * columns + 0.6, height), title) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index < len(names):
                _bars(axes, names[index], table, labelled=index % columns == 0)
            else:
                axes.set_axis_off()


def _bars(axes: Axes, name: str, table: Mapping[str, Mapping[str, float]], labelled: bool) -> None:
    models = list(table)
    for place, model in enumerate(models):
        if name in table[model]:
            value = table[model][name]
            axes.barh(place, value, height=0.66, color=_color(place))
            # Beyond the bar's end on its own side, so that a negative reward keeps its label clear of it.
            axes.annotate(
                _digits(value),
                (value, place),
                xytext=(3 if value >= 0 else -3, 0),
                textcoords="offset points",
                va="center",
                ha="left" if value >= 0 else "right",
                fontsize=8,
            )
    axes.set_title(name)
    axes.set_yticks(range(len(models)), models if labelled else [""] * len(models))
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.margins(x=0.22)


def plot_win_rate(
    path: Path, rates: Mapping[str, tuple[float, float, float]], title: str = "Win rate over SFT"
) -> None:
    """Each win rate as a point in its interval, beside the even odds of one half.

    Args:
        path: the PNG to write.
        rates: name -> (rate, low, high), 0 to 1, such as an `Interval`.
        title: stands above the picture.
    """
    _need(bool(rates), path, "no win rate", "name -> (rate, low, high)")
    with _figure(path, (6.4, 1.15 + 0.42 * len(rates)), title) as figure:
        axes = figure.subplots()
        axes.axvline(0.5, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        for place, (rate, low, high) in enumerate(rates.values()):
            color = _color(place + 1)
            axes.plot([low, high], [place, place], color=color, linewidth=5, alpha=0.35, solid_capstyle="round")
            axes.plot(rate, place, "o", color=color, markersize=8)
            label = f"{rate:.3f}  [{low:.3f}, {high:.3f}]"
            axes.annotate(
                # Held inside the picture, also where the rate is near 0 or 1.
                label,
                (min(max(rate, 0.14), 0.86), place),
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.set(xlim=(-0.02, 1.02), ylim=(len(rates) - 0.5, -0.75), xlabel="share of wins, ties half")
        axes.set_yticks(range(len(rates)), list(rates))
        axes.tick_params(left=False)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")


def plot_scores(path: Path, scores: Mapping[str, Sequence[float]], label: str, title: str = "") -> None:
    """Histograms of scores over each other, with their means: before and after.

    Args:
        path: the PNG to write.
        scores: model -> its scores, one per completion; any numbers of them.
        label: what is scored, with its unit; stands below.
        title: stands above the picture.
    """
    import numpy as np

    _need(all(scores.values()) and bool(scores), path, "no score", "model -> one score per completion")
    together = np.concatenate([np.asarray(values, float) for values in scores.values()])
    edges = np.histogram_bin_edges(together, bins=40)
    with _figure(path, (6.4, 3.2), title) as figure:
        axes = figure.subplots()
        for place, (model, values) in enumerate(scores.items()):
            mean, color = float(np.mean(values)), _color(place)
            # Shares, so that models with different numbers of completions compare.
            weights = np.full(len(values), 1 / len(values))
            axes.hist(
                values,
                edges.tolist(),
                weights=weights,
                color=color,
                alpha=0.55,
                label=f"{model} (mean {mean:.3f})",
            )
            axes.axvline(mean, color=color, linewidth=1.6)
        axes.set(xlabel=label, ylabel="share of completions")
        axes.grid(axis="y")
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.16), ncols=len(scores), borderaxespad=0)


def plot_curves(path: Path, rows: Sequence[Mapping[str, float]], columns: Sequence[str], title: str = "") -> None:
    """One panel per column over the column `step`, as a training stage writes them.

    Args:
        path: the PNG to write.
        rows: one dict per point; a row without a column has no point there.
        columns: the figures to draw, in order.
        title: stands above the panels.

    Raises:
        ValueError: there is no row, or a column that no row has.
    """
    found = {name for row in rows for name in row}
    missing = [name for name in ("step", *columns) if name not in found]
    _need(bool(rows) and bool(columns) and not missing, path, f"no {missing or 'points'}", "rows with them")
    across = min(3, len(columns))
    down = -(-len(columns) // across)
    with _figure(path, (3.1 * across + 0.3, 1.95 * down + 0.4), title) as figure:
        grid = figure.subplots(down, across, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index >= len(columns):
                axes.set_axis_off()
                continue
            points = [(row["step"], row[columns[index]]) for row in rows if columns[index] in row]
            steps, values = zip(*points, strict=True)
            marker = "o" if len(points) < 2 else ""
            axes.plot(steps, values, color=_color(1), linewidth=1.5, marker=marker)
            axes.set_title(columns[index])
            axes.grid(True)
            axes.tick_params(length=0)
            axes.margins(x=0.02)
            if index >= len(columns) - across:
                axes.set_xlabel("step")


def plot_lines(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]], at: Sequence[float], label: str, title: str = ""
) -> None:
    """One panel per figure, one line per model over the same few points.

    Args:
        path: the PNG to write.
        panels: figure -> model -> its value at each point.
        at: the points.
        label: what the points count; stands below.
        title: stands above the panels.
    """
    _need(bool(panels) and bool(at), path, "no point", "figure -> model -> a value at each point")
    with _figure(path, (3.1 * len(panels) + 0.9, 2.6), title) as figure:
        for axes, (name, lines) in zip(
            figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True
        ):
            for place, (model, values) in enumerate(lines.items()):
                axes.plot(at, values, color=_color(place), linewidth=1.5, marker="o", markersize=4, label=model)
            axes.set(title=name, xlabel=label, xticks=at)
            axes.grid(True)
            axes.tick_params(length=0)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")


class Panel(NamedTuple):
    """Probabilities of a few tokens.

    Attributes:
        title: stands above.
        tokens: one label per bar.
        series: name -> one probability per token, such as before and after the controls.
        chosen: the place of the token that is marked.
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
    _need(bool(rows), path, "no step", "a row of panels per step")
    heights = [max(len(panel.tokens) for panel in row) for row in rows]
    with _figure(
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
    for place, (name, values) in enumerate(panel.series.items()):
        offset = (place + 0.5) * thickness - 0.4
        axes.barh([row + offset for row in range(len(values))], values, thickness, color=_color(place), label=name)
    axes.set(xlim=(0, 1), ylim=(len(panel.tokens) - 0.5, -0.5))
    axes.set_xticks((0, 0.5, 1), ("0", "50 %", "100 %"))
    labels = [f"▸ {token}" if row == panel.chosen else token for row, token in enumerate(panel.tokens)]
    axes.set_yticks(range(len(labels)), labels)
    axes.get_yticklabels()[panel.chosen].set(fontweight="bold", color=INK)
    for text in (axes.set_title(panel.title, fontsize=9), *axes.get_yticklabels()):
        text.set_parse_math(False)  # a token may hold a dollar sign
    axes.tick_params(length=0)
    axes.grid(axis="x")


def plot_over_kl(path: Path, rows: Sequence[Mapping[str, float]], kept: int, stopped: bool, title: str = "") -> None:
    """What the proxy gained and what the held-out score gained, over the KL that it cost.

    Args:
        path: the PNG to write.
        rows: one per reading of the monitor, with `step` (its iteration), `kl`, `proxy_gain` and, where there is a
            held-out score, `held_out_gain`.
        kept: the iteration whose policy is kept.
        stopped: whether the last reading stopped the run.
        title: stands above the picture.
    """
    _need(bool(rows), path, "no reading", "one row per reading of the monitor")
    lines = {"proxy_gain": "reward model (optimised)", "held_out_gain": "held-out score"}
    with _figure(path, (6.4, 3.4), title) as figure:
        axes = figure.subplots()
        axes.axhline(0, color=FAINT, linewidth=0.8)
        for place, name in enumerate(name for name in lines if name in rows[0]):
            color = _color(place + 1)
            points = [(row["kl"], row[name]) for row in rows]
            axes.plot(*zip(*points, strict=True), color=color, linewidth=1.5, marker=".", label=lines[name])
            marks = [("o", row) for row in rows if row["step"] == kept] + [("X", rows[-1])] * stopped
            for marker, row in marks:
                axes.plot(row["kl"], row[name], marker, color=color, markersize=9, markeredgecolor="white")
        axes.plot([], [], "o", color=FAINT, label=f"kept (iteration {kept})")
        if stopped:
            axes.plot([], [], "X", color=FAINT, label=f"stopped (iteration {rows[-1]['step']:.0f})")
        axes.set(xlabel="KL to the reference (nats per sequence)", ylabel="gain (deviations at the start)")
        axes.grid(True)
        axes.legend(loc="best")


def side_by_side(path: Path, rows: Sequence[SideBySide]) -> None:
    """Writes a page of prompts with what each model wrote and how it was scored; needs nothing but itself."""
    _need(bool(rows), path, "no row", "one SideBySide per prompt")
    write_text(path, comparison_page(rows))


@contextmanager
def _figure(path: Path, size: tuple[float, float], title: str) -> Iterator[Figure]:
    """A figure in the house style, written whole to `path` when the block ends without an error."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        yield figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    beside.write_bytes(buffer.getvalue())
    os.replace(beside, path)


def _digits(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _color(place: int) -> str:
    return COLORS[place % len(COLORS)]


def _need(there: bool, path: Path, found: str, expected: str) -> None:
    if not there:
        raise ValueError(f"{path}: found {found} to show; give {expected}")
