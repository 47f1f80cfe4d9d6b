"""The win rate that a policy would have if its completions were as long as the baseline's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import expit
from scipy.stats import t as student

from rlhf.evaluation.intervals import Interval
from rlhf.evaluation.matrix import score_matrix
from rlhf.evaluation.winrate import BaselineScores, Scores

RIDGE = 1e-4
"""Of both coefficients, in prompts: finite where one side always wins, and a rate moves by less than .0001."""
STEPS = 100


def length_controlled_win_rate(
    policy_scores: Scores,
    baseline_scores: BaselineScores,
    policy_lengths: Scores,
    baseline_lengths: BaselineScores,
    confidence: float = 0.95,
) -> Interval:
    """The win rate at equal lengths, by a logistic regression of the wins on the difference in length.

    P(a beats b) = σ(θ + φ · tanh((len a − len b) / s)), s the deviation of the differences; the value is σ(θ).
    Each prompt weighs as one, whatever its samples; ties count half. The interval is Student's (N − 2 degrees) around
    θ, with the variance that allows for alike samples of a prompt, H⁻¹ (Σᵢ gᵢ gᵢᵀ) H⁻¹ · N / (N − 2).

    Source: Dubois et al. 2024, Length-Controlled AlpacaEval, section 3; the variance: Liang and Zeger 1986,
    Longitudinal Data Analysis Using Generalized Linear Models.

    Differs from: the paper's model, which has a term for how hard a prompt is; that takes many models to estimate.

    Args:
        policy_scores: [N, S] the judge's score of each sample of the policy.
        baseline_scores: [N, R] the same for the baseline, on the same prompts in the same order.
        policy_lengths: [N, S] the length of each sample, in characters.
        baseline_lengths: [N, R] the same for the baseline.
        confidence: the interval's coverage, between 0 and 1.

    Returns:
        The rate and its interval: all of 0 to 1 below 3 prompts, and where every difference in length is the same and
        not 0, for then nothing tells length from quality.

    Raises:
        ValueError: shapes differ, there is no prompt, or a score is not a number.
    """
    policy, baseline = score_matrix(policy_scores, "policy_scores"), score_matrix(baseline_scores, "baseline_scores")
    longer, shorter = score_matrix(policy_lengths, "policy_lengths"), score_matrix(baseline_lengths, "baseline_lengths")
    if policy.shape != longer.shape or baseline.shape != shorter.shape or len(policy) != len(baseline):
        raise ValueError(
            f"scores have the shapes {policy.shape} and {baseline.shape}, lengths {longer.shape} and {shorter.shape}; "
            "give each sample a score and a length, on the same prompts"
        )
    wins = _each(policy, baseline, lambda a, b: (a > b) + 0.5 * (a == b))
    difference = _each(longer, shorter, np.subtract)
    deviation = difference.std()
    terms = np.stack([np.ones_like(wins), np.tanh(difference / deviation) if deviation else np.sign(difference)], -1)
    weights = _fit(wins, terms)
    value = float(expit(weights[0]))
    if len(wins) < 3 or (not deviation and difference.any()):
        return Interval(value, 0.0, 1.0)
    gradient, hessian = _derivatives(weights, wins, terms)
    inverse = np.linalg.inv(hessian)
    variance = inverse @ (gradient.T @ gradient) @ inverse * len(wins) / (len(wins) - 2)
    reach = student.ppf((1 + confidence) / 2, len(wins) - 2) * np.sqrt(variance[0, 0])
    return Interval(value, float(expit(weights[0] - reach)), float(expit(weights[0] + reach)))


def _each(
    policy: Float[np.ndarray, "N S"], baseline: Float[np.ndarray, "N R"], of: Callable[..., Any]
) -> Float[np.ndarray, "N SR"]:
    """A figure of each sample of the policy with each of the baseline's."""
    figures: np.ndarray = of(policy[:, :, None], baseline[:, None, :])  # [N, S, R]
    return figures.reshape(len(policy), -1).astype(float)


def _fit(wins: Float[np.ndarray, "N C"], terms: Float[np.ndarray, "N C 2"]) -> Float[np.ndarray, " 2"]:
    """The likeliest coefficients by Newton's method, a step at most 1 long: the ridge makes the loss convex."""
    weights = np.zeros(2)
    for _ in range(STEPS):
        gradient, hessian = _derivatives(weights, wins, terms)
        step = np.linalg.solve(hessian, gradient.sum(0) + RIDGE * weights)
        weights = weights - step / max(1.0, float(np.linalg.norm(step)))
        if np.abs(step).max() < 1e-10:
            break
    return weights


def _derivatives(
    weights: Float[np.ndarray, " 2"], wins: Float[np.ndarray, "N C"], terms: Float[np.ndarray, "N C 2"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, "2 2"]]:
    """Each prompt's gradient of the loss, without the ridge, and the whole Hessian with it."""
    rates = expit(terms @ weights)
    gradient = ((rates - wins)[..., None] * terms).mean(1)
    curvature = rates * (1.0 - rates) / wins.shape[1]
    return gradient, np.einsum("nc,nci,ncj->ij", curvature, terms, terms) + RIDGE * np.eye(2)
