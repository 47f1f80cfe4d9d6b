"""Two nights beside each other: params and data that differ, figures with intervals, completions that differ most.

Intervals are percentile bootstraps over test prompts, 95 %. Where the nights share prompts a difference is paired: what
makes a prompt hard for both cancels out. Scores of two reward models are on scales of their own, so a difference of
scores is given only where both nights were scored by the same one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from rlhf.evaluation.intervals import Interval, difference_interval, mean_interval
from rlhf.evaluation.text import split_words
from tasks.comparison.results import Result
from tasks.evaluation.curves import ROUGE
from tasks.figures import FIGURES, Figure, find, label, title
from tasks.roles import POLICIES, ROLES

PROXY = "reward"
"""The scorer that PPO optimised, so it proves nothing by itself."""
OF_TEXTS = ("bleu", "kl")
"""Figures of the evaluated policy that are not means over prompts, so they have no interval."""
OF_TRAINING = ("sft.eval_loss", "reward.accuracy", "reward.ece", "policy.reward_mean", "policy.entropy")
"""Figures of the stages that trained; they have none either."""
Values = dict[tuple[str, str], float]
"""A value per prompt, by its id and text."""


@dataclass(frozen=True)
class Contrast:
    """One figure of both, and by how much the second's is above the first's; None where they do not compare.

    Attributes:
        name: what people read.
        figure: how it is shown.
    """

    name: str
    figure: Figure
    first: Interval | float | None
    second: Interval | float | None
    difference: Interval | float | None


@dataclass(frozen=True)
class Texts:
    """What both policies wrote for a prompt, and the referee's scores of that."""

    prompt: str
    references: Sequence[str]
    first: str
    second: str
    first_score: float
    second_score: float


@dataclass(frozen=True)
class Comparison:
    """Two results, compared.

    Attributes:
        first, second: the results.
        params: by name, the values that differ; None where one has no such param.
        data: the paths of the data that differ.
        figures: of the policies and what they learnt from.
        referee: who decides which completion is better.
        shared: the number of test prompts that both have.
        wins: how often the second policy's samples beat the first's on these prompts; None where nobody can judge both.
        texts: of the shared prompts whose completions differ, those whose scores differ most come first.
    """

    first: Result
    second: Result
    params: Mapping[str, tuple[str | None, str | None]]
    data: Sequence[str]
    figures: Sequence[Contrast]
    referee: str
    shared: int
    wins: Interval | None
    texts: Sequence[Texts]


def compare(first: Result, second: Result) -> Comparison:
    """Sets two results beside each other."""
    referee = _referee(first, second)
    shared = [key for key in _by_prompt(first.samples) if key in _by_prompt(second.samples)]
    return Comparison(
        first=first,
        second=second,
        params=differences(first.params, second.params),
        data=sorted(path for path in differences(first.data, second.data)),
        figures=[*_scores(first, second, referee), *_texts_of(first, second), *_plain(first, second)],
        referee=referee,
        shared=len(shared),
        wins=_wins(first, second, referee, shared) if _same_scorer(first, second, referee) else None,
        texts=_side_by_side(first, second, referee),
    )


def _referee(first: Result, second: Result) -> str:
    """Who scored both nights: gold, a judge, or, where they share neither, their reward models."""
    rows = [side.completions[0] if side.completions else {} for side in (first, second)]
    return next((name for name in ("gold", "judge") if all(f"policy_{name}" in row for row in rows)), PROXY)


def differences(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """The entries that differ, by name; None stands for one that is missing."""
    names = sorted(first.keys() | second.keys())
    return {name: (first.get(name), second.get(name)) for name in names if first.get(name) != second.get(name)}


def contrast(name: str, figure: Figure, first: Values, second: Values, comparable: bool = True) -> Contrast:
    """A mean over prompts of both, with intervals, and their difference, paired where they share prompts."""
    means = [mean_interval(list(values.values())) if values else None for values in (first, second)]
    shared = [key for key in first if key in second]
    difference = None
    if comparable and shared:
        difference = mean_interval([second[key] - first[key] for key in shared])
    elif comparable and first and second:
        difference = difference_interval(list(second.values()), list(first.values()))
    return Contrast(name, figure, means[0], means[1], difference)


def _scores(first: Result, second: Result, referee: str) -> list[Contrast]:
    """The sampled scores of SFT and policy, and the win rates of one over the other."""
    figures = []
    for scorer in dict.fromkeys((referee, PROXY)):
        same = _same_scorer(first, second, scorer)
        for model in POLICIES:
            left, right = _sampled(first, model, scorer), _sampled(second, model, scorer)
            figures.append(contrast(title(f"{model}.{scorer}"), FIGURES[scorer], left, right, same))
    comparable = referee != PROXY and _same_scorer(first, second, referee)
    rate = FIGURES["win_rate"]
    name = f"{rate.title} over {ROLES['sft'].title}"
    wins = contrast(name, rate, _win_shares(first, referee), _win_shares(second, referee), comparable)
    # The recorded ones have the interval that the gates saw.
    return [*figures, replace(wins, first=_recorded_win_rate(first), second=_recorded_win_rate(second))]


def _texts_of(first: Result, second: Result) -> list[Contrast]:
    """ROUGE and length of the likeliest completions."""
    left, right = _rouge(first, second)
    left["length"], right["length"] = _words(first), _words(second)
    rows = [FIGURES[key] for key in (*ROUGE, "length")]
    return [contrast(row.label, row, left.get(row.key, {}), right.get(row.key, {})) for row in rows]


def _words(side: Result) -> Values:
    return {key: float(len(split_words(row["policy"]))) for key, row in _by_prompt(side.completions).items()}


def _plain(first: Result, second: Result) -> list[Contrast]:
    figures = []
    names = {f"evaluate.policy.{key}": FIGURES[key].label for key in OF_TEXTS}
    for key, name in (names | {key: label(key) for key in OF_TRAINING}).items():
        left, right = first.metrics.get(key), second.metrics.get(key)
        comparable = key != "evaluate.policy.bleu" or _same_tokens(first, second)
        difference = right - left if comparable and left is not None and right is not None else None
        figures.append(Contrast(name, find(key), left, right, difference))
    return figures


def _same_tokens(first: Result, second: Result) -> bool:
    """Whether both nights were asked to count the same words."""
    sides = ([side.params.get(f"evaluate.{name}") for name in ("language", "bleu_tokens")] for side in (first, second))
    return all(None in pair or pair[0] == pair[1] for pair in zip(*sides, strict=True))


def _side_by_side(first: Result, second: Result, referee: str) -> list[Texts]:
    rows, others = _by_prompt(first.completions), _by_prompt(second.completions)
    score = f"policy_{referee}"
    texts = [
        Texts(row["prompt"], row["references"], row["policy"], other["policy"], row[score], other[score])
        for key, row in rows.items()
        if (other := others.get(key)) and row["policy"] != other["policy"]
    ]
    return sorted(texts, key=lambda row: -abs(row.second_score - row.first_score))


def _wins(first: Result, second: Result, referee: str, shared: Sequence[tuple[str, str]]) -> Interval | None:
    if not shared:
        return None
    from rlhf.evaluation.winrate import win_rate

    challenger, opponent = _by_prompt(second.samples), _by_prompt(first.samples)
    grids = [_grid([rows[key] for key in shared], "policy", referee) for rows in (challenger, opponent)]
    return win_rate(grids[0], grids[1])


def _win_shares(side: Result, referee: str) -> Values:
    if not side.samples:
        return {}
    from rlhf.evaluation.winrate import win_shares

    grids = (_grid(side.samples, model, referee) for model in ("policy", "sft"))
    return dict(zip(_by_prompt(side.samples), win_shares(*grids).tolist(), strict=True))


def _grid(rows: Sequence[dict[str, Any]], model: str, scorer: str) -> np.ndarray:
    """A model's scores of each prompt's samples, [N, S]."""
    return np.array([row[model]["scores"][scorer] for row in rows])


def _recorded_win_rate(side: Result) -> Interval | None:
    names = [f"evaluate.win_rate{end}" for end in ("", "_low", "_high")]
    return Interval(*(side.metrics[name] for name in names)) if all(name in side.metrics for name in names) else None


def _sampled(side: Result, model: str, scorer: str) -> Values:
    rows = _by_prompt(side.samples)
    return {key: fmean(row[model]["scores"][scorer]) for key, row in rows.items() if scorer in row[model]["scores"]}


def _rouge(*sides: Result) -> list[dict[str, Values]]:
    """ROUGE of each side's policy by the same words, those of the language that both sides' references are in."""
    from rlhf.evaluation.language import AUTO, choose_tokens
    from rlhf.evaluation.rouge import rouge_rows

    every = [row["references"] for side in sides for row in side.completions]
    named = {side.params.get("evaluate.language", AUTO) for side in sides if side.completions}
    words = choose_tokens(named.pop() if len(named) == 1 else AUTO, every).words
    figures = []
    for side in sides:
        texts, references = ([row[name] for row in side.completions] for name in ("policy", "references"))
        scores = rouge_rows(texts, references, words=words) if texts else {}
        keys = list(_by_prompt(side.completions))
        figures.append({name: dict(zip(keys, scores[name], strict=True)) for name in ROUGE if name in scores})
    return figures


def _same_scorer(first: Result, second: Result, scorer: str) -> bool:
    """Whether both nights used the very same scorer."""
    known = first.scorers.get(scorer)
    return scorer == "gold" or (known is not None and known == second.scorers.get(scorer))


def _by_prompt(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["id"], row["prompt"]): row for row in rows}
