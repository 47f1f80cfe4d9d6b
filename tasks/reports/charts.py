"""Pictures of a night: bars, win rate, scores, curves, gains over the KL.

Every function takes plain figures and writes one file whole, with the same bytes for the same figures. Figures and
models are named by their keys; titles, units and formats are those of tasks/figures.py and tasks/roles.py, and a model
has the same colour in every picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.figures import FIGURES, find
from tasks.reports.canvas import FAINT, canvas, color, need
from tasks.roles import ROLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORED = ("sft", "policy", "best_of_n", "base")
"""The models in the order of the colours."""


def plot_bars(path: Path, table: Mapping[str, Mapping[str, float]], title: str = "") -> None:
    """One panel per figure, one bar per model, each on a scale of its own.

    Args:
        path: the PNG to write.
        table: model -> figure -> value; a model without a figure has no bar there.
        title: stands above the panels.
    """
    keys = list(dict.fromkeys(key for figures in table.values() for key in figures))
    need(bool(keys), path, "no figure", "a table of model -> figure -> value")
    columns = min(4, len(keys))
    rows = -(-len(keys) // columns)
    height = 0.55 + rows * (0.62 + 0.28 * len(table))
    with canvas(path, (2.4 * columns + 0.6, height), title) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index < len(keys):
                _bars(axes, keys[index], table, labelled=index % columns == 0)
            else:
                axes.set_axis_off()


def _bars(axes: Axes, key: str, table: Mapping[str, Mapping[str, float]], labelled: bool) -> None:
    row, models = find(key), list(table)
    for index, model in enumerate(models):
        if key in table[model]:
            value = table[model][key]
            axes.barh(index, value, height=0.66, color=_color(model))
            # Beyond the bar's end on its own side, so that a negative reward keeps its label clear of it.
            axes.annotate(
                row.show(value),
                (value, index),
                xytext=(3 if value >= 0 else -3, 0),
                textcoords="offset points",
                va="center",
                ha="left" if value >= 0 else "right",
                fontsize=8,
            )
    axes.set_title(row.label)
    axes.set_yticks(range(len(models)), [ROLES[model].title if labelled else "" for model in models])
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.axvline(0, color=FAINT, linewidth=0.8)
    axes.margins(x=0.3)  # room for the values, on the left too where some are negative


def plot_win_rate(path: Path, rates: Mapping[str, tuple[float, float, float]], title: str = "") -> None:
    """Each win rate as a point in its interval, beside the even odds of one half.

    Args:
        path: the PNG to write.
        rates: model -> (rate, low, high), 0 to 1, such as an `Interval`.
        title: stands above the picture.
    """
    need(bool(rates), path, "no win rate", "model -> (rate, low, high)")
    with canvas(path, (6.4, 1.15 + 0.42 * len(rates)), title) as figure:
        axes = figure.subplots()
        axes.axvline(0.5, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        for index, (model, (rate, low, high)) in enumerate(rates.items()):
            axes.plot([low, high], [index] * 2, color=_color(model), linewidth=5, alpha=0.35, solid_capstyle="round")
            axes.plot(rate, index, "o", color=_color(model), markersize=8)
            axes.annotate(
                FIGURES["win_rate"].interval(rate, low, high),
                # Held inside the picture, also where the rate is near 0 or 1.
                (min(max(rate, 0.14), 0.86), index),
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.set(xlim=(-0.02, 1.02), ylim=(len(rates) - 0.5, -0.75), xlabel="share of wins, ties half")
        axes.set_yticks(range(len(rates)), [ROLES[model].title for model in rates])
        axes.tick_params(left=False)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")


def plot_scores(path: Path, scores: Mapping[str, Sequence[float]], key: str, title: str = "") -> None:
    """Histograms of scores over each other, with their means: before and after.

    Args:
        path: the PNG to write.
        scores: model -> its scores, one per completion; any numbers of them.
        key: the figure that the scores are of, such as `gold`.
        title: stands above the picture.
    """
    import numpy as np

    need(all(scores.values()) and bool(scores), path, "no score", "model -> one score per completion")
    row = find(key)
    together = np.concatenate([np.asarray(values, float) for values in scores.values()])
    edges = np.histogram_bin_edges(together, bins=40).tolist()
    with canvas(path, (6.4, 3.2), title) as figure:
        axes = figure.subplots()
        for model, values in scores.items():
            mean = float(np.mean(values))
            # Shares, so that models with different numbers of completions compare.
            weights = np.full(len(values), 1 / len(values))
            label = f"{ROLES[model].title} (mean {row.show(mean)})"
            axes.hist(values, edges, weights=weights, color=_color(model), alpha=0.55, label=label)
            axes.axvline(mean, color=_color(model), linewidth=1.6)
        axes.set(xlabel=row.label, ylabel="share of completions")
        axes.grid(axis="y")
        axes.legend(loc="upper left", bbox_to_anchor=(0, 1.16), ncols=len(scores), borderaxespad=0)


def plot_curves(
    path: Path, rows: Sequence[Mapping[str, float]], keys: Sequence[str], over: str = "step", title: str = ""
) -> None:
    """One panel per figure over the column `step`, as a training stage writes them.

    Args:
        path: the PNG to write.
        rows: one dict per point; a row without a figure has no point there.
        keys: the figures to draw, in order; the last part of each, such as `loss` of `sft.loss`, is its column.
        over: what the steps are; stands below.
        title: stands above the panels.

    Raises:
        ValueError: there is no row, or a column that no row has.
    """
    columns = [key.rpartition(".")[2] for key in keys]
    known = {name for row in rows for name in row}
    missing = [name for name in ("step", *columns) if name not in known]
    need(bool(rows) and bool(columns) and not missing, path, f"no {missing or 'points'}", "rows with them")
    across = min(3, len(keys))
    down = -(-len(keys) // across)
    with canvas(path, (3.1 * across + 0.3, 1.95 * down + 0.4), title) as figure:
        grid = figure.subplots(down, across, squeeze=False)
        for index, axes in enumerate(grid.flat):
            if index >= len(keys):
                axes.set_axis_off()
                continue
            points = [(row["step"], row[columns[index]]) for row in rows if columns[index] in row]
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=color(1), linewidth=1.5, marker="" if len(points) > 10 else ".")
            axes.set_title(find(keys[index]).label)
            axes.grid(True)
            axes.tick_params(length=0)
            axes.margins(x=0.02)
            axes.xaxis.get_major_locator().set_params(integer=True)  # there is no step 1.5
            if index >= len(keys) - across:
                axes.set_xlabel(over)


def plot_lines(
    path: Path, panels: Mapping[str, Mapping[str, Sequence[float]]], at: Sequence[float], over: str, title: str = ""
) -> None:
    """One panel per figure, one line per model over the same few points.

    Args:
        path: the PNG to write.
        panels: figure -> model -> its value at each point.
        at: the points.
        over: what the points count; stands below.
        title: stands above the panels.
    """
    need(bool(panels) and bool(at), path, "no point", "figure -> model -> a value at each point")
    with canvas(path, (3.1 * len(panels) + 0.9, 2.6), title) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False)
        for axes, (key, lines) in zip(grid.flat, panels.items(), strict=True):
            for model, values in lines.items():
                label = ROLES[model].title
                axes.plot(at, values, color=_color(model), linewidth=1.5, marker="o", markersize=4, label=label)
            axes.set(title=find(key).label, xlabel=over, xticks=at)
            axes.grid(True)
            axes.tick_params(length=0)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")


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
    need(bool(rows), path, "no reading", "one row per reading of the monitor")
    with canvas(path, (6.4, 3.4), title) as figure:
        axes = figure.subplots()
        axes.axhline(0, color=FAINT, linewidth=0.8)
        for index, key in enumerate(key for key in ("proxy_gain", "held_out_gain") if key in rows[0]):
            hue = color(index + 1)
            points = [(row["kl"], row[key]) for row in rows]
            axes.plot(*zip(*points, strict=True), color=hue, linewidth=1.5, marker=".", label=find(key).title)
            marks = [("o", row) for row in rows if row["step"] == kept] + [("X", rows[-1])] * stopped
            for marker, row in marks:
                axes.plot(row["kl"], row[key], marker, color=hue, markersize=9, markeredgecolor="white")
        axes.plot([], [], "o", color=FAINT, label=f"kept (iteration {kept})")
        if stopped:
            axes.plot([], [], "X", color=FAINT, label=f"stopped (iteration {rows[-1]['step']:.0f})")
        axes.set(xlabel=find("kl").label, ylabel=f"gain ({find('proxy_gain').unit})")
        axes.grid(True)
        axes.legend(loc="best")


def _color(model: str) -> str:
    return color(COLORED.index(model))
