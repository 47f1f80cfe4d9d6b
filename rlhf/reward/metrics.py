"""How good a reward model is on pairs it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

Scores = Float[ndarray, " N"]


def accuracy(chosen: Scores, rejected: Scores) -> float:
    """Share of pairs in which the chosen completion scores higher; an equal score counts half."""
    return float(np.mean((chosen > rejected) + 0.5 * (chosen == rejected)))


def auc(chosen: Scores, rejected: Scores) -> float:
    """The chance that some chosen completion outscores some rejected one, whatever their prompts.

    The area under the ROC curve of telling chosen from rejected by score alone: unlike accuracy, it asks that
    scores of different prompts compare.
    """
    from sklearn.metrics import roc_auc_score

    labels = np.r_[np.ones(len(chosen)), np.zeros(len(rejected))]
    return float(roc_auc_score(labels, np.r_[chosen, rejected]))


def correlations(chosen: Scores, rejected: Scores, margins: Scores) -> tuple[float, float]:
    """Spearman's and Pearson's correlation of score difference and margin, each pair taken in both orders.

    Both orders, because the margin of a pair is positive by construction: without its mirror image a reward model
    that has every sign wrong could correlate as well as one that has every sign right.
    """
    from scipy.stats import pearsonr, spearmanr

    differences = np.r_[chosen - rejected, rejected - chosen]
    both = np.r_[margins, -margins]
    return float(spearmanr(differences, both).statistic), float(pearsonr(differences, both).statistic)


class CalibrationBin(NamedTuple):
    """The pairs of about one confidence: the mean of what the scores claim, the share that is right, their number."""

    confidence: float
    accuracy: float
    pairs: int


def calibration(chosen: Scores, rejected: Scores, bins: int = 10) -> list[CalibrationBin]:
    """Confidence and accuracy of the pairs in equal bins of confidence from ½ to 1; a bin without a pair is left out.

    The confidence of a pair is σ(|r_chosen − r_rejected|). Source: Guo et al. (2017), section 2, reliability diagrams.
    """
    confidence = 1.0 / (1.0 + np.exp(-np.abs(chosen - rejected)))
    correct = (chosen > rejected) + 0.5 * (chosen == rejected)
    bin_of = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    inside = [bin_of == b for b in range(bins) if (bin_of == b).any()]
    return [CalibrationBin(float(confidence[b].mean()), float(correct[b].mean()), int(b.sum())) for b in inside]


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Σ (n_b / N)·|accuracy_b − confidence_b| over the bins of `calibration`. Source: Guo et al. (2017), equation 3."""
    total = sum(each.pairs for each in bins)
    return sum(each.pairs / total * abs(each.accuracy - each.confidence) for each in bins)


def accuracy_by_margin(
    chosen: Scores, rejected: Scores, margins: Scores, groups: int = 3
) -> list[tuple[float, float, float]]:
    """(least margin, greatest margin, accuracy) of the pairs in `groups` parts of about equal size, by margin."""
    edges = np.quantile(margins, np.linspace(0, 1, groups + 1)[1:-1])
    group_of = np.searchsorted(edges, margins)  # equal margins share a group, so one may be empty
    parts = []
    for group in np.unique(group_of):
        inside = group_of == group
        parts.append((float(margins[inside].min()), float(margins[inside].max()),
                      accuracy(chosen[inside], rejected[inside])))  # fmt: skip
    return parts


def spread_auc(correct: Bool[ndarray, " N"], spread: Scores) -> float:
    """The chance that the ensemble is less sure of some wrong pair than of some right one; ½ where all are alike.

    The area under the ROC curve of telling wrong pairs from right ones by spread alone.

    Args:
        correct: whether the chosen completion scored higher.
        spread: how far the members differ over the pair.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(~correct, spread)) if 0 < correct.sum() < len(correct) else 0.5
