"""How far a mean over prompts may be off, and a difference of two: bootstrap intervals, and one that holds for few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

Values = Float[np.ndarray, " N"] | Sequence[float]
OtherValues = Float[np.ndarray, " M"] | Sequence[float]

NODES = np.linspace(0.0, 6.0, 81)
LINES = 1 / (1 + np.exp(-np.linspace(-9.0, 9.0, 181)))
"""Of `chance_below`: the nodes of its trapezoidal rule, and the lines to choose from; ends are off by 1e-6 at most."""


class Interval(NamedTuple):
    """An estimate and the ends of its interval."""

    value: float
    low: float
    high: float


def mean_interval(values: Values, resamples: int = 2000, confidence: float = 0.95, seed: int = 0) -> Interval:
    """The mean over prompts, x̄ = Σ xᵢ / N, with its percentile bootstrap interval.

    A prompt's value is the mean over its samples, so that prompts, not samples, are what is resampled. Of two systems
    on the same prompts, give the differences xᵢ = aᵢ − bᵢ: what makes a prompt hard for both then cancels out.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.

    Args:
        values: [N] one value per prompt.
        resamples: number of bootstrap resamples.
        confidence: the interval's coverage, between 0 and 1.
        seed: of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: there is no value, one is not a number, or resamples or confidence is out of range.
    """
    sample = _checked(values, resamples, confidence)
    return _interval(float(sample.mean()), _means(sample, resamples, np.random.default_rng(seed)), confidence)


def difference_interval(
    values: Values, baseline: OtherValues, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """The difference of two means over prompts that the two do not share, x̄ − ȳ, with its bootstrap interval.

    Each side is resampled by itself.

    Source: Efron and Tibshirani 1993, section 8.3, the two-sample problem.

    Args:
        values: [N] one value per prompt.
        baseline: [M] one value per prompt of the other.
        resamples: number of bootstrap resamples.
        confidence: the interval's coverage, between 0 and 1.
        seed: of the resampling.

    Raises:
        ValueError: as `mean_interval`.
    """
    sample, base = _checked(values, resamples, confidence), _checked(baseline, resamples, confidence)
    generator = np.random.default_rng(seed)
    means = _means(sample, resamples, generator) - _means(base, resamples, generator)
    return _interval(float(sample.mean() - base.mean()), means, confidence)


def share_interval(values: Values, confidence: float = 0.95) -> Interval:
    """The mean over prompts of shares, 0 to 1, with an interval that holds for few prompts and for rare losses.

    Each end is a quantile of a weighted mean, the weights drawn from a flat Dirichlet over the N values and one more
    that nobody saw, the worst for that end: low = q of Σ wᵢxᵢ + w₀·0, high = 1 − q of Σ wᵢ(1 − xᵢ), with q the
    (1 − confidence)/2 quantile (`chance_below`; nothing is drawn). Of values that are all 0 or 1 this is the interval
    of Clopper and Pearson 1934, which is exact; for others no case is known where it covers less often than it says.
    One value says nothing: [0, 1].

    Source: Gaffke 2005, Three Test Statistics for a Nonparametric One-Sided Hypothesis on the Mean of a Nonnegative
    Variable; Learned-Miller and Thomas 2019, A New Confidence Interval for the Mean of a Bounded Random Variable.

    Args:
        values: [N] one share per prompt.
        confidence: the interval's coverage, between 0 and 1.

    Raises:
        ValueError: there is no value, one is not a number or not a share, or confidence is out of range.
    """
    sample = _checked(values, 1, confidence)
    if sample.min() < 0.0 or sample.max() > 1.0:
        raise ValueError(f"found values from {sample.min():g} to {sample.max():g}; give shares, 0 to 1")
    if len(sample) == 1:
        return Interval(float(sample[0]), 0.0, 1.0)
    tail = (1.0 - confidence) / 2
    return Interval(float(sample.mean()), _lower_end(sample, tail), 1.0 - _lower_end(1.0 - sample, tail))


def chance_below(
    shares: Float[np.ndarray, " K"], counts: Int[np.ndarray, "B K"], floor: float
) -> Float[np.ndarray, " B"]:
    """The chance that the weighted mean of `share_interval` lies at a floor or below; at its low that is the tail.

    With v the K different shares, n how many prompts have each, N = Σ n, and rⱼ = (vⱼ − floor)/floor, the weights being
    exponential variables over their sum, it is that of Σ Eᵢrᵢ ≤ E₀, by Laplace's inversion:
    P = 1/2πi ∫ dz / (z (1 − z) Π (1 + z rⱼ)^nⱼ) along Re z = c, 0 < c < 1.
    The line is laid by the saddle point, and z = c + i·h·sinh(u) with its width h: few nodes in u do.

    Source: Gaffke 2005, for the p-value; Daniels 1954, Saddlepoint Approximations in Statistics, for the line.

    Args:
        shares: [K] the different shares.
        counts: [B, K] how many prompts have each, for each of B samples.
        floor: above 0, at most 1.

    Returns:
        [B] chances, 0 to 1.
    """
    ratios = (shares - floor) / floor
    heights = -np.log(LINES * (1 - LINES)) - counts @ np.log1p(ratios[:, None] * LINES)
    chosen = heights.argmin(axis=1)  # where the integrand is least on the real axis: near its saddle point
    chances = np.empty(len(counts))
    for index in np.unique(chosen):
        line, rows = LINES[index], chosen == index
        bend = 1 / line**2 + 1 / (1 - line) ** 2 + (counts[rows].mean(axis=0) @ (ratios / (1 + line * ratios)) ** 2)
        points = line + 1j * np.sinh(NODES) / np.sqrt(bend)
        logs = -np.log(points) - np.log1p(-points) - counts[rows] @ np.log1p(ratios[:, None] * points)
        integrand = np.exp(logs).real * np.cosh(NODES)  # its other half, below the real axis, is the same
        chances[rows] = np.trapezoid(integrand, NODES, axis=1) / (np.pi * np.sqrt(bend))
    return np.clip(chances, 0.0, 1.0)


def evidence_above(values: Values, floor: float) -> float:
    """The evidence that the mean over prompts of shares lies above a floor: E = 1/p.

    p is `chance_below` of the floor, so that `share_interval`'s low exceeds it where E > 2/(1 − confidence). Where the
    mean is not above the floor, E reaches 1/α with chance α at most. The promise is that interval's: exact for
    prompts won or lost whole, and no case is known where it is broken.

    Args:
        values: [N] one share per prompt, 0 to 1.
        floor: 0 to 1; the least that is told from 0 is 1e-9.

    Returns:
        E, 1 or more.
    """
    shares, counts = np.unique(_checked(values, 1, 0.5), return_counts=True)
    [chance] = chance_below(shares, counts[None], max(floor, 1e-9))
    return 1.0 / max(float(chance), np.finfo(float).tiny)


def _checked(values: Values | OtherValues, resamples: int, confidence: float) -> Float[np.ndarray, " N"]:
    sample = np.asarray(values, float)
    if not sample.size or np.isnan(sample).any():
        raise ValueError(f"found {np.isnan(sample).sum()} nan among {sample.size} values; give at least 1, and no nan")
    if resamples < 1 or not 0.0 < confidence < 1.0:
        raise ValueError(
            f"resamples is {resamples} and confidence {confidence}; "
            "give at least 1 resample and a confidence between 0 and 1"
        )
    return sample


def _lower_end(sample: Float[np.ndarray, " N"], tail: float) -> float:
    """The floor that the weighted mean lies below with a chance of `tail`."""
    from scipy.optimize import brentq

    shares, counts = np.unique(sample, return_counts=True)
    if not shares[-1]:
        return 0.0

    def excess(floor: float) -> float:
        return (float(chance_below(shares, counts[None], floor)[0]) if floor else 0.0) - tail

    return float(brentq(excess, 0.0, shares[-1], xtol=1e-9))


def _means(sample: Float[np.ndarray, " N"], resamples: int, generator: np.random.Generator) -> Float[np.ndarray, " R"]:
    # One resample at a time: all at once would hold resamples × N numbers.
    count = len(sample)
    return np.array([sample[generator.integers(count, size=count)].mean() for _ in range(resamples)])


def _interval(value: float, means: Float[np.ndarray, " R"], confidence: float) -> Interval:
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))
