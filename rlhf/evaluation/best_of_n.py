"""Best-of-n: sample n, keep the one with the highest reward. The yardstick that PPO has to beat."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from rlhf.evaluation.matrix import score_matrix

Scores = Float[np.ndarray, "N K"] | Float[Tensor, "N K"]


def choose_best(scores: Scores) -> Int[np.ndarray, " N"]:
    """The index of each prompt's best completion: argmaxₖ sᵢₖ, of ties the first.

    Args:
        scores: [N, K] one score per completion.

    Returns:
        [N] indices, 0 to K - 1.

    Raises:
        ValueError: scores is no non-empty matrix, or a score is not a number.
    """
    best: np.ndarray = score_matrix(scores, "scores").argmax(axis=1)
    return best


def expected_best(scores: Scores, judged: Scores | None = None) -> Float[np.ndarray, " K"]:
    """The mean score of the best of n, for every n from 1 to K, without drawing anew.

    With each prompt's K samples sorted by score, the i-th from below (i = 1..K) is the best of n random
    ones with probability C(i - 1, n - 1) / C(K, n), so that

        E[best of n] = Σ_{i=n..K} C(i - 1, n - 1) / C(K, n) · v₍ᵢ₎

    is the mean over all subsets of size n: unbiased for every n ≤ K. With `judged`, v is another judge's
    score of the same samples while `scores` still chooses, which shows over-optimisation.

    Source: Nakano et al. 2021, WebGPT, appendix I; Gao et al. 2023, Scaling Laws for Reward Model
    Overoptimization, section 2.

    Args:
        scores: [N, K] the reward model's scores, which choose; of ties the earlier sample is chosen.
        judged: [N, K] the scores that are averaged; by default `scores` themselves.

    Returns:
        [K] entry n - 1 is the expected score of best-of-n, averaged over the prompts.

    Raises:
        ValueError: shapes differ, scores is no non-empty matrix, or a score is not a number.
    """
    chooser = score_matrix(scores, "scores")
    values = chooser if judged is None else score_matrix(judged, "judged")
    if chooser.shape != values.shape:
        raise ValueError(f"scores has shape {chooser.shape}, judged {values.shape}; give both for the same samples")
    samples = chooser.shape[1]
    # A stable sort of the reversed rows puts the earlier of two equal samples above the later one.
    order = samples - 1 - np.argsort(chooser[:, ::-1], axis=1, kind="stable")
    by_rank = np.take_along_axis(values, order, axis=1).mean(axis=0)  # [K], worst first
    weights = [
        [math.comb(rank - 1, n - 1) / math.comb(samples, n) for rank in range(1, samples + 1)]
        for n in range(1, samples + 1)
    ]
    expected: np.ndarray = np.asarray(weights) @ by_rank
    return expected


def kl_best_of_n(n: int) -> float:
    """KL(best-of-n ‖ policy) in nats per sequence: log n - (n - 1)/n.

    Exact when no two samples are alike (a continuous score); with repeated samples the true value is
    smaller, so this is an upper bound.

    Source: Stiennon et al. 2020, Learning to Summarize from Human Feedback, appendix G.3; the bound:
    Beirami et al. 2024, Theoretical Guarantees on the Best-of-n Alignment Policy, theorem 1.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; give at least 1 sample to choose from")
    return math.log(n) - (n - 1) / n
