"""A reward model on pairs that it has not seen: every figure in one place."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor

from rlhf.evaluation.intervals import share_interval
from rlhf.evaluation.text import split_words
from rlhf.records import Pair, prompt_key
from rlhf.reward import metrics
from rlhf.reward.model import RewardModel
from rlhf.reward.training import group_pairs, score_all


class PairEvaluation(NamedTuple):
    """A reward model's figures on pairs, by name, and the bins that its calibration error sums up."""

    figures: dict[str, float]
    calibration: list[metrics.CalibrationBin]


def evaluate_pairs(reward_model: RewardModel, pairs: Sequence[Pair]) -> PairEvaluation:
    """Accuracy, AUC, correlations with the margins and calibration, and the length-only baseline beside them.

    An ensemble's confidence in a pair comes from the mean of its members' raw scores, for it is raw scores that a
    pairwise loss makes log-odds.
    """
    groups = group_pairs(pairs)
    ordered = [pair for group in groups for pair in group.pairs]
    raw = torch.stack([torch.cat(score_all(member.network, groups)) for member in reward_model.members])
    scores, spread = (figures.view(2, -1).numpy() for figures in reward_model.combine(raw))
    chosen, rejected = scores
    words = np.array([[len(split_words(text)) for text in (pair.chosen, pair.rejected)] for pair in ordered], float).T
    margins = np.array([pair.margin if pair.margin is not None else 1.0 for pair in ordered])
    calibration = metrics.calibration(*raw.mean(0).view(2, -1).numpy())
    figures = {
        "accuracy": metrics.accuracy(chosen, rejected),
        **_accuracy_interval(ordered, chosen, rejected),
        "auc": metrics.auc(chosen, rejected),
        "ece": metrics.expected_calibration_error(calibration),
        "accuracy_by_length": metrics.accuracy(*words),
        "test_pairs": float(len(pairs)),
    }
    figures["spearman"], figures["pearson"] = metrics.correlations(chosen, rejected, margins)
    for number, (_, _, share) in enumerate(metrics.accuracy_by_margin(chosen, rejected, margins), 1):
        figures[f"accuracy_margin_{number}"] = share
    if len(reward_model.members) > 1:
        figures |= _disagreement(raw, chosen > rejected, spread)
    return PairEvaluation(figures, calibration)


def _accuracy_interval(
    pairs: Sequence[Pair], chosen: Float[ndarray, " N"], rejected: Float[ndarray, " N"]
) -> dict[str, float]:
    """The ends of the accuracy's interval over prompts: pairs of one prompt stand or fall together."""
    right: dict[str, list[float]] = {}
    for pair, correct in zip(pairs, (chosen > rejected) + 0.5 * (chosen == rejected), strict=True):
        right.setdefault(prompt_key(pair.prompt), []).append(float(correct))
    _, low, high = share_interval([fmean(row) for row in right.values()])
    return {"accuracy_low": low, "accuracy_high": high}


def _disagreement(
    raw: Float[Tensor, "M B"], correct: Bool[ndarray, " N"], spread: Float[ndarray, "2 N"]
) -> dict[str, float]:
    """How far an ensemble's members differ, whether that predicts its errors, and how good each is by itself."""
    figures = {"spread_mean": float(spread.mean()), "spread_auc": metrics.spread_auc(correct, spread.mean(0))}
    for index, scores in enumerate(raw):
        figures[f"accuracy_member_{index}"] = metrics.accuracy(*scores.view(2, -1).numpy())
    return figures
