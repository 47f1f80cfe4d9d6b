"""The win rate of a policy over a baseline, with an interval over whole prompts."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from rlhf.evaluation.intervals import Interval, share_interval
from rlhf.evaluation.matrix import score_matrix

Scores = Float[np.ndarray, "N S"] | Float[Tensor, "N S"]
BaselineScores = Float[np.ndarray, "N R"] | Float[Tensor, "N R"]
SIGNATURE = "Gaffke over prompts"
"""Of the interval of `win_rate`."""


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


def win_rate(policy_scores: Scores, baseline_scores: BaselineScores, confidence: float = 0.95) -> Interval:
    """The share of wins, ties half, mean over i of wᵢ (`win_shares`), with its `share_interval` over prompts.

    Prompts are what it counts, not samples: samples of one prompt are alike, and taken one by one they would make the
    interval too narrow. Why none of the bootstraps, nor Student's t: docs/decisions.md.

    Args:
        policy_scores: [N, S] the judge's score of each sample of the policy.
        baseline_scores: [N, R] the same for the baseline, on the same prompts in the same order.
        confidence: the interval's coverage, between 0 and 1.

    Raises:
        ValueError: as `win_shares`, or confidence is out of range.
    """
    return share_interval(win_shares(policy_scores, baseline_scores), confidence)
