"""How far a mean over prompts may be off, and a difference of two: bootstrap intervals, and one that holds for few."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, " N"] | Sequence[float]
OtherValues = Float[np.ndarray, " M"] | Sequence[float]


DRAWS = 10_000
"""Of the weights that make a share's interval."""


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


def share_interval(values: Values, confidence: float = 0.95, seed: int = 0) -> Interval:
    """The mean over prompts of shares, 0 to 1, with an interval that holds for few prompts and for rare losses.

    Each end is the quantile of a weighted mean, the weights drawn from a flat Dirichlet over the N values and one more
    that nobody saw, the worst for that end: low = q of Σ wᵢxᵢ + w₀·0, high = 1 − q of Σ wᵢ(1 − xᵢ), with q the
    (1 − confidence)/2 quantile. Of values that are all 0 or 1 this is the interval of Clopper and Pearson 1934, which
    is exact; for others no case is known where it covers less often than it says. One value says nothing: [0, 1].

    Source: Gaffke 2005, Three Test Statistics for a Nonparametric One-Sided Hypothesis on the Mean of a Nonnegative
    Variable; Learned-Miller and Thomas 2019, A New Confidence Interval for the Mean of a Bounded Random Variable.

    Args:
        values: [N] one share per prompt.
        confidence: the interval's coverage, between 0 and 1.
        seed: of the weights; both ends use the same, so that 1 − x gives the mirrored interval.

    Raises:
        ValueError: there is no value, one is not a number or not a share, or confidence is out of range.
    """
    sample = np.sort(_checked(values, DRAWS, confidence))
    if sample[0] < 0.0 or sample[-1] > 1.0:
        raise ValueError(f"found values from {sample[0]:g} to {sample[-1]:g}; give shares, 0 to 1")
    if len(sample) == 1:
        return Interval(float(sample[0]), 0.0, 1.0)
    weights, tail = _weights(len(sample), seed), (1.0 - confidence) / 2
    low, high = (float(np.quantile(weights @ shares, tail)) for shares in (sample, np.sort(1.0 - sample)))
    return Interval(float(sample.mean()), low, 1.0 - high)


def evidence_above(values: Values, floor: float) -> float:
    """The evidence that the mean over prompts of shares lies above a floor: at least 1/α with chance α at most if not.

    E = mean over λ of Π (1 + λ(xᵢ − floor)), the wealth of one who bets at fair odds that shares exceed the floor: its
    expectation is at most 1 while the mean is not above it, whatever the distribution and however few the prompts
    (Markov's inequality). λ is c/floor, c = 1, ½, ¼ … 1/1024.

    Source: Waudby-Smith and Ramdas 2024, Estimating Means of Bounded Random Variables by Betting, section 4; the
    mixture over λ: Robbins 1970.

    Args:
        values: [N] one share per prompt, 0 to 1.
        floor: 0 to 1.

    Returns:
        E, or the greatest float where it is more.
    """
    sample = _checked(values, 1, 0.5)
    bets = 2.0 ** -np.arange(11.0) / max(floor, np.finfo(float).tiny)
    with np.errstate(divide="ignore", over="ignore"):
        wealth = np.log1p(bets[:, None] * (sample - floor)).sum(axis=1)  # the first bet stakes all: log 0
        return float(min(np.exp(wealth).mean(), np.finfo(float).max))


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


@lru_cache(maxsize=1)
def _weights(count: int, seed: int) -> Float[np.ndarray, "R N"]:
    """Flat Dirichlet weights of N values; what is missing from 1 lies on the value that nobody saw."""
    drawn = np.random.default_rng(seed).standard_exponential((DRAWS, count + 1))
    weights: np.ndarray = drawn[:, 1:] / drawn.sum(axis=1, keepdims=True)
    return weights


def _means(sample: Float[np.ndarray, " N"], resamples: int, generator: np.random.Generator) -> Float[np.ndarray, " R"]:
    # One resample at a time: all at once would hold resamples × N numbers.
    count = len(sample)
    return np.array([sample[generator.integers(count, size=count)].mean() for _ in range(resamples)])


def _interval(value: float, means: Float[np.ndarray, " R"], confidence: float) -> Interval:
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))
