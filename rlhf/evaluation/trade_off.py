"""A scorer's verdict traded against ROUGE-L: what a policy is worth where either alone would be fooled."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def traded_scores(
    win_shares: Float[np.ndarray, " N"],
    rouge: Float[np.ndarray, " N"],
    baseline_rouge: Float[np.ndarray, " N"],
    weight: float,
) -> Float[np.ndarray, " N"]:
    """Each prompt's score: sᵢ = wᵢ + λ·(Rᵢ − R⁰ᵢ).

    Their mean is the win rate with λ times the change in ROUGE-L: at λ = 5 a fall of .01 costs what .05 of the
    comparisons are worth. The baseline itself has ½. A sum has no bound at which it jumps, so that noise in ROUGE-L
    moves a score by no more than λ times that noise.

    Source: the weighted sum of two objectives (Marler and Arora 2010, The weighted sum method for multi-objective
    optimization: new insights).

    Args:
        win_shares: [N] wᵢ, the policy's share of wins over the baseline on each prompt, 0 to 1.
        rouge: [N] Rᵢ, ROUGE-L of the policy's answers, 0 to 1.
        baseline_rouge: [N] R⁰ᵢ, the same of the baseline, on the same prompts in the same order.
        weight: λ, the share of wins that a ROUGE-L of 1 is worth; 0 counts the wins alone.

    Returns:
        [N] scores.
    """
    return win_shares + weight * (rouge - baseline_rouge)
