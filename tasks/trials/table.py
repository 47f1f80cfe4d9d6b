"""Candidates compared: a table of their figures, by candidate or over the seeds of each variant, for people to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean, median, stdev

from tasks.files import write_json
from tasks.reports import summary
from tasks.trials.standings import Selection, Standing

FIGURES = {
    "wall_s": "wall time (s)",
    "sft.gold": "SFT gold, sampled",
    "policy.gold": "policy gold, sampled",
    "sft.gold_greedy": "SFT gold, greedy",
    "policy.gold_greedy": "policy gold, greedy",
    "best_of_n.gold": "best-of-n gold",
    "sft.rougeL": "SFT ROUGE-L",
    "policy.rougeL": "policy ROUGE-L",
    "sft.bleu": "SFT BLEU",
    "policy.bleu": "policy BLEU",
    "policy.kl": "KL (nats per sequence)",
    "win_rate": "win rate",
    "win_rate_low": "win rate, lower bound",
    "iterations": "PPO iterations",
    "monitor_kept_iteration": "iteration that the monitor kept",
    "sft.reward": "SFT reward",
    "policy.reward": "policy reward",
    "accuracy": "reward accuracy on test pairs",
    "judge.accuracy": "judge accuracy on test pairs",
    "reward.gold_accuracy": "reward accuracy against gold",
    "reward.gold_auc": "reward AUC against gold",
    "reward.probe_accuracy": "reward accuracy on swapped values",
}

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
    drawn = columns(groups, {title: _over(key, statistic) for key, title in FIGURES.items()})
    width = max(10, *(len(text) + 2 for name, column in drawn.items() for text in (name, *column.values())))
    lines = [f"{'':<36}" + "".join(f"{name:>{width}}" for name in drawn)]
    for title in FIGURES.values():
        if any(column[title] for column in drawn.values()):
            lines.append(f"{title:<36}" + "".join(f"{column[title]:>{width}}" for column in drawn.values()))
    return "\n".join(lines)


def of_night(selection: Selection) -> list[dict[str, str]]:
    """A row per candidate, the best first, with what chose among them and who goes on."""
    ranked = sorted(selection.candidates, key=lambda row: float("inf") if row.score is None else -row.score)
    cells: dict[str, Cell] = {
        "held-out score": lambda rows: _score(*rows),
        "win rate over SFT": lambda rows: _win_rate(*rows),
        "KL": _over("policy.kl", partial(_median, digits=2)),
        "ROUGE-L": _over("policy.rougeL", partial(_median, digits=4)),
        "": lambda rows: "goes on" if rows[0].name == selection.winner else rows[0].error or "",
    }
    drawn = columns({row.name: [row] for row in ranked}, cells)
    return [{"candidate": name, **column} for name, column in drawn.items()]


def save(path: Path, standings: Sequence[Standing]) -> None:
    """Writes every figure as JSON, by variant and seed."""
    groups = by_variant(standings)
    write_json(path, {name: {str(row.seed): row.figures for row in rows} for name, rows in groups.items()})


def _over(figure: str, statistic: Callable[[Sequence[float]], str]) -> Cell:
    return lambda rows: statistic([row.figures[figure] for row in rows if figure in row.figures])


def _median(values: Sequence[float], digits: int = 3) -> str:
    """Of one value, the value."""
    return f"{median(values):.{digits}f}" if values else ""


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else _median(values)


def _score(row: Standing) -> str:
    return "" if row.score is None else f"{row.score:.4f} ± {row.standard_error:.4f}"


def _win_rate(row: Standing) -> str:
    return summary.interval(row.figures, "win_rate") if "win_rate" in row.figures else ""
