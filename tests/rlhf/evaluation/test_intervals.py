"""Intervals of means over prompts: by hand, against a naive loop, and whether they cover what they should."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf.evaluation.intervals import difference_interval, mean_interval


def test_the_mean_and_the_ends_by_hand() -> None:
    """Of 0 and 1 a resample's mean is 0, ½ or 1 with chances ¼, ½, ¼: the ends of 95 % are 0 and 1, of 40 % ½ and ½."""
    assert mean_interval([0.0, 1.0]) == (0.5, 0.0, 1.0)
    assert mean_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5, 0.5)


def test_without_spread_there_is_no_interval() -> None:
    """Every resample of equal values is their mean."""
    assert mean_interval([0.25] * 7) == (0.25, 0.25, 0.25)
    assert difference_interval([0.75] * 3, [0.25] * 5) == (0.5, 0.5, 0.5)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    """Of 400 samples of 40 from a normal with mean 2, about 95 % (here: 91 to 98) have 2 inside."""
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        found = mean_interval(generator.normal(2.0, 1.0, 40), resamples=200)
        inside += found.low <= 2.0 <= found.high
    assert 0.91 <= inside / 400 <= 0.98


def test_pairs_are_narrower_than_two_samples_where_prompts_differ_in_difficulty() -> None:
    """Values that move together by prompt: their differences hardly vary, though each side does."""
    generator = np.random.default_rng(2)
    difficulty = generator.normal(0.0, 1.0, 60)
    ours, theirs = difficulty + 0.2 + generator.normal(0, 0.1, 60), difficulty + generator.normal(0, 0.1, 60)
    paired, apart = mean_interval(ours - theirs), difference_interval(ours, theirs)
    assert paired.value == pytest.approx(apart.value)
    assert paired.low > 0.1 > 0 > apart.low


def test_a_difference_is_resampled_on_both_sides() -> None:
    """Its width is that of independent means: about 3.92·√(σ²/N + σ²/M), of either side alone less."""
    generator = np.random.default_rng(3)
    ours, theirs = generator.normal(0.0, 1.0, 50), generator.normal(0.0, 2.0, 80)
    found = difference_interval(ours, theirs, resamples=4000)
    expected = 3.92 * np.sqrt(ours.var() / 50 + theirs.var() / 80)
    assert found.value == pytest.approx(ours.mean() - theirs.mean())
    assert found.high - found.low == pytest.approx(expected, rel=0.1)


def test_the_same_seed_gives_the_same_interval() -> None:
    """And another seed another one."""
    values = np.random.default_rng(4).normal(size=30)
    assert mean_interval(values, seed=5) == mean_interval(values, seed=5) != mean_interval(values, seed=6)


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        ([], {}, "among 0 values"),
        ([1.0, float("nan")], {}, "found 1 nan among 2 values"),
        ([1.0], {"resamples": 0}, "at least 1 resample"),
        ([1.0], {"confidence": 1.0}, "between 0 and 1"),
    ],
)
def test_what_has_no_interval_is_refused(values: list[float], options: dict[str, float], said: str) -> None:
    """With what was found."""
    with pytest.raises(ValueError, match=said):
        mean_interval(values, **options)  # type: ignore[arg-type]
