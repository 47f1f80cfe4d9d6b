"""How far a mean over prompts may be off, and a difference of two: percentile bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Values = Float[np.ndarray, " N"] | Sequence[float]
OtherValues = Float[np.ndarray, " M"] | Sequence[float]


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


def _means(sample: Float[np.ndarray, " N"], resamples: int, generator: np.random.Generator) -> Float[np.ndarray, " R"]:
    # One resample at a time: all at once would hold resamples × N numbers.
    count = len(sample)
    return np.array([sample[generator.integers(count, size=count)].mean() for _ in range(resamples)])


def _interval(value: float, means: Float[np.ndarray, " R"], confidence: float) -> Interval:
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))
