"""Candidates compared: a table of their figures, by candidate or over the seeds of each variant, for people to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev

from tasks.figures import FIGURES, Figure, find, label
from tasks.files import write_json
from tasks.reports import summary
from tasks.roles import ROLES
from tasks.trials.standings import Selection, Standing

SHOWN = (
    *("wall_s", "sft.gold", "policy.gold", "sft.gold_greedy", "policy.gold_greedy", "best_of_n.gold"),
    *("sft.rougeL", "policy.rougeL", "sft.bleu", "policy.bleu", "policy.kl", "win_rate", "win_rate_low"),
    *("iterations", "monitor_kept_iteration", "sft.reward", "policy.reward", "accuracy", "judge.accuracy"),
    *("reward.gold_accuracy", "reward.gold_auc", "reward.probe_accuracy"),
)
"""The figures of a table over seeds, in its order."""
STAGE_OF = {"accuracy": "reward.accuracy", "iterations": "policy.iterations"}
"""The whole keys of figures that candidates have by a stage's own."""

HELD_OUT = FIGURES["held_out.score"]
Statistic = Callable[[Figure, Sequence[float]], str]
Cell = Callable[[Sequence[Standing]], str]
"""What stands in a table of some candidates that are taken together: those of one variant, or a single one."""


def columns(groups: Mapping[str, Sequence[Standing]], cells: Mapping[str, Cell]) -> dict[str, dict[str, str]]:
    """The cells of each group of candidates, by the figure's title."""
    return {name: {title: cell(group) for title, cell in cells.items()} for name, group in groups.items()}


def by_variant(standings: Sequence[Standing]) -> dict[str, list[Standing]]:
    """The candidates of each variant, which differ by seed alone."""
    groups: dict[str, list[Standing]] = {}
    for row in standings:
        groups.setdefault(row.variant, []).append(row)
    return groups


def over_seeds(standings: Sequence[Standing]) -> str:
    """A line per figure: of one variant its value for each seed and the median; of several, mean ± deviation."""
    groups, statistic = by_variant(standings), _spread
    if len(groups) == 1:
        groups, statistic = {f"seed {row.seed}": [row] for row in standings} | {"median": [*standings]}, _median
    titles = {key: label(STAGE_OF.get(key, key)) for key in SHOWN}
    drawn = columns(groups, {title: _over(key, statistic) for key, title in titles.items()})
    width = max(10, *(len(text) + 2 for name, column in drawn.items() for text in (name, *column.values())))
    left = max(map(len, titles.values())) + 1
    lines = [f"{'':<{left}}" + "".join(f"{name:>{width}}" for name in drawn)]
    for title in titles.values():
        if any(column[title] for column in drawn.values()):
            lines.append(f"{title:<{left}}" + "".join(f"{column[title]:>{width}}" for column in drawn.values()))
    return "\n".join(lines)


def of_night(selection: Selection) -> list[dict[str, str]]:
    """A row per candidate, the best first, with what chose among them and who goes on."""
    ranked = sorted(selection.candidates, key=lambda row: float("inf") if row.score is None else -row.score)
    cells: dict[str, Cell] = {
        HELD_OUT.title: lambda rows: _score(*rows),
        f"{FIGURES['win_rate'].title} over {ROLES['sft'].title}": lambda rows: _win_rate(*rows),
        **{FIGURES[key].title: _over(f"policy.{key}", _median) for key in ("kl", "rougeL")},
        "": lambda rows: "goes on" if rows[0].name == selection.winner else rows[0].error or "",
    }
    drawn = columns({row.name: [row] for row in ranked}, cells)
    return [{"candidate": name, **column} for name, column in drawn.items()]


def save(path: Path, standings: Sequence[Standing]) -> None:
    """Writes every figure as JSON, by variant and seed."""
    groups = by_variant(standings)
    write_json(path, {name: {str(row.seed): row.figures for row in rows} for name, rows in groups.items()})


def _over(key: str, statistic: Statistic) -> Cell:
    return lambda rows: statistic(find(key), [row.figures[key] for row in rows if key in row.figures])


def _median(figure: Figure, values: Sequence[float]) -> str:
    """Of one value, the value."""
    return figure.show(median(values)) if values else ""


def _spread(figure: Figure, values: Sequence[float]) -> str:
    if len(values) < 2:
        return _median(figure, values)
    return f"{figure.show(fmean(values))} ± {figure.show(stdev(values))}"


def _score(row: Standing) -> str:
    if row.score is None or row.standard_error is None:
        return ""
    return f"{HELD_OUT.show(row.score)} ± {HELD_OUT.show(row.standard_error)}"


def _win_rate(row: Standing) -> str:
    return summary.interval(row.figures, "win_rate") if "win_rate" in row.figures else ""
