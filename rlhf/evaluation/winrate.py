"""The win rate of a policy over a baseline, with an interval over whole prompts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rlhf.evaluation.intervals import Interval, mean_interval, share_interval
from rlhf.evaluation.matrix import score_matrix

Scores = Float[np.ndarray, "N S"] | Float[Tensor, "N S"]
BaselineScores = Float[np.ndarray, "N R"] | Float[Tensor, "N R"]
FEW = 300
"""From so many prompts on the bootstrap's interval is wide enough; docs/decisions.md has the simulation."""


def win_shares(policy_scores: Scores, baseline_scores: BaselineScores) -> Float[np.ndarray, " N"]:
    """Each prompt's share of wins: wᵢ = mean over s, r of [aᵢₛ > bᵢᵣ] + ½ [aᵢₛ = bᵢᵣ].

    A prompt's samples are drawn independently, so each of the policy's is compared with each of the baseline's:
    the mean over all S·R comparisons has the same expectation as over S fixed ones, and less variance.

    Source: Mann and Whitney 1947 (the U statistic over S·R, ties counted half).

    Args:
        policy_scores: [N, S] the judge's score of each sample of the policy.
        baseline_scores: [N, R] the same for the baseline, on the same prompts in the same order.

    Returns:
        [N] shares of wins, 0 to 1.

    Raises:
        ValueError: the prompts differ in number, there are none, or a score is not a number.
    """
    policy, baseline = (
        score_matrix(policy_scores, "policy_scores"),
        score_matrix(baseline_scores, "baseline_scores"),
    )
    if len(policy) != len(baseline):
        raise ValueError(
            f"policy_scores has {len(policy)} prompts, baseline_scores {len(baseline)}; score both on the same prompts"
        )
    policy, baseline = policy[:, :, None], baseline[:, None, :]
    shares: np.ndarray = ((policy > baseline) + 0.5 * (policy == baseline)).mean(axis=(1, 2))  # [N, S, R] -> [N]
    return shares


def win_rate(
    policy_scores: Scores,
    baseline_scores: BaselineScores,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The share of wins, ties half, with an interval over prompts: `share_interval` below FEW, else a bootstrap's.

    value = mean over i of wᵢ (`win_shares`). Prompts are resampled with replacement, each with all its
    samples: samples of one prompt are alike, and drawing them one by one would make the interval too narrow.
    The percentile interval is too narrow itself for few prompts, and for losses that are rare.

    Source: Efron 1979, Bootstrap Methods: Another Look at the Jackknife; the percentile interval: Efron
    and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3; clusters: Davison and Hinkley 1997,
    section 3.8.

    Args:
        policy_scores: [N, S] the judge's score of each sample of the policy.
        baseline_scores: [N, R] the same for the baseline, on the same prompts in the same order.
        resamples: number of bootstrap resamples, from FEW prompts on.
        confidence: the interval's coverage, between 0 and 1.
        seed: of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: as `win_shares`, or resamples or confidence is out of range.
    """
    shares = win_shares(policy_scores, baseline_scores)
    if len(shares) < FEW:
        return share_interval(shares, confidence, seed)
    return mean_interval(shares, resamples, confidence, seed)


def interval_name(prompts: int) -> str:
    """Which interval `win_rate` gives so many prompts, for its signature."""
    return "share_interval" if prompts < FEW else "bootstrap"
