"""Candidates compared: a table of their figures, by candidate or over the seeds of each variant, for people to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev

from tasks.figures import FIGURES, Figure, find, label
from tasks.files import write_json
from tasks.reports import summary
from tasks.roles import ROLES
from tasks.trials.standings import Selection, Standing, by_variant, rank

SHOWN = (
    *("wall_s", "sft.gold", "policy.gold", "sft.gold_greedy", "policy.gold_greedy", "best_of_n.gold"),
    *("sft.rougeL", "policy.rougeL", "sft.bleu", "policy.bleu", "sft.bleu_lc", "policy.bleu_lc"),
    *("sft.bleu_lc_all", "policy.bleu_lc_all", "sft.judge", "policy.judge"),
    *("policy.kl", "win_rate", "win_rate_low", "gates_passed"),
    *("held_out.win_rate", "held_out.rougeL_change", "held_out.score"),
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


def over_seeds(standings: Sequence[Standing]) -> str:
    """A line per figure: mean ± deviation of each variant; of a single one after each seed's value and the median."""
    groups = by_variant(standings)
    titles = {key: label(STAGE_OF.get(key, key)) for key in SHOWN}
    drawn = columns(groups, {title: _over(key, _spread) for key, title in titles.items()})
    if len(groups) == 1:
        each = {f"seed {row.seed}": [row] for row in standings} | {"median": [*standings]}
        values = columns(each, {title: _over(key, _median) for key, title in titles.items()})
        (spread,) = drawn.values()
        drawn = values | ({"mean": spread} if len(standings) > 1 else {})
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
        **({} if selection.rouge_weight is None else _parts(selection)),
        "": lambda rows: "goes on" if rows[0].name == selection.winner else rows[0].error or "",
    }
    drawn = columns({row.name: [row] for row in ranked}, cells)
    return [{"candidate": name, **column} for name, column in drawn.items()]


def choice(selection: Selection, chosen: Standing) -> str | None:
    """Why these settings and this seed go on, in a sentence with the numbers; None where no trade chose."""
    weight, baseline, rate, rouge = selection.rouge_weight, selection.sft_rouge, chosen.dev_win_rate, chosen.dev_rouge
    if weight is None or baseline is None or rate is None or rouge is None or chosen.score is None:
        return None
    won, change = FIGURES["win_rate"], FIGURES["held_out.rougeL_change"].show(rouge - baseline, "+")
    text = (
        f"{chosen.name} chosen of {len(selection.candidates)} candidates on {selection.prompts} dev prompts: "
        f"{won.title} over {ROLES['sft'].title} {won.show(rate)} by the {selection.referee}, "
        f"{FIGURES['rougeL'].title} {change}, {won.show(rate)} + {weight:g} × {change} = {HELD_OUT.show(chosen.score)}"
    )
    if not _has_seeds(selection.candidates):
        return text
    means = ", ".join(f"{name} {HELD_OUT.show(value)}" for name, value in mean_scores(selection.candidates).items())
    return f"{text}; means over seeds: {means}"


def mean_scores(standings: Sequence[Standing]) -> dict[str, float]:
    """The mean score of each variant's seeds, the best first; a variant none of whose seeds has one is left out."""
    groups = by_variant(standings)
    ordered = sorted(groups, key=lambda variant: rank(groups[variant]), reverse=True)
    means = {name: [row.score for row in groups[name] if row.score is not None] for name in ordered}
    return {name: fmean(scores) for name, scores in means.items() if scores}


def best_settings(standings: Sequence[Standing]) -> list[str]:
    """A line with the variants in the order of their scores, where there are several with one."""
    means = mean_scores(standings)
    ranked = ", ".join(f"{name} {HELD_OUT.show(value)}" for name, value in means.items())
    return [f"{HELD_OUT.title} on dev prompts, the best first: {ranked}"] if len(means) > 1 else []


def _parts(selection: Selection) -> dict[str, Cell]:
    """What the scores of a trade are made of, and their mean over a candidate's settings where those have seeds."""

    def show(key: str, value: float | None) -> str:
        return "" if value is None else FIGURES[key].show(value)

    parts: dict[str, Cell] = {
        FIGURES["held_out.win_rate"].title: lambda rows: show("held_out.win_rate", rows[0].dev_win_rate),
        FIGURES["held_out.rougeL"].title: lambda rows: show("held_out.rougeL", rows[0].dev_rouge),
    }
    means = mean_scores(selection.candidates)
    if _has_seeds(selection.candidates):
        parts["mean over seeds"] = lambda rows: show("held_out.score", means.get(rows[0].variant))
    return parts


def _has_seeds(standings: Sequence[Standing]) -> bool:
    return len(by_variant(standings)) < len(standings)


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
