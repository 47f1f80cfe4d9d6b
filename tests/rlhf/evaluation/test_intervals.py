"""Intervals of means over prompts: by hand, against a naive loop, and whether they cover what they should."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta

from rlhf.evaluation.intervals import chance_below, difference_interval, evidence_above, mean_interval, share_interval
from tests.rlhf.evaluation import gates


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


@pytest.mark.parametrize(("wins", "count"), [(1, 2), (3, 4), (17, 20), (60, 60), (250, 500)])
def test_of_wins_and_losses_the_interval_is_that_of_clopper_and_pearson(wins: int, count: int) -> None:
    """The quantiles of beta(k, n − k + 1) and beta(k + 1, n − k), which are exact."""
    found = share_interval([1.0] * wins + [0.0] * (count - wins))
    assert found.value == pytest.approx(wins / count)
    assert found.low == pytest.approx(beta.ppf(0.025, wins, count - wins + 1), abs=1e-7)
    high = 1.0 if wins == count else beta.ppf(0.975, wins + 1, count - wins)
    assert found.high == pytest.approx(high, abs=1e-7)


@pytest.mark.parametrize("count", [2, 3, 8, 40])
def test_the_chance_is_the_share_of_drawn_weights_whose_mean_lies_below(count: int) -> None:
    """Against 100,000 flat Dirichlet draws, off by .005 at most (three standard errors), at low and at high chances."""
    generator = np.random.default_rng(count)
    values = generator.integers(0, 9, count) / 8
    drawn = generator.dirichlet(np.ones(count + 1), 100_000)[:, 1:] @ values
    shares, counts = np.unique(values, return_counts=True)
    for chance in (0.025, 0.3, 0.9):
        found = chance_below(shares, counts[None], float(np.quantile(drawn, chance)))
        assert found == pytest.approx(chance, abs=0.005)


def test_shares_alone_have_such_an_interval() -> None:
    """One share says nothing, whatever it is; all lost have no lower end; what lies outside 0 and 1 is none."""
    assert share_interval([0.75]) == (0.75, 0.0, 1.0)
    assert share_interval([0.0] * 5) == (0.0, 0.0, pytest.approx(1 - 0.025**0.2))
    with pytest.raises(ValueError, match=r"found values from -1 to 0\.5; give shares"):
        share_interval([0.5, -1.0])


def test_evidence_by_hand() -> None:
    """Eight won have a chance of 2⁻⁸ where each is won as often as not; all lost are none, and any won rules out 0."""
    assert evidence_above([1.0] * 8, 0.5) == pytest.approx(2.0**8)
    assert evidence_above([1.0, 1.0, 0.0], 0.5) == pytest.approx(2.0)  # two or three of three: 4/8
    assert evidence_above([0.0] * 8, 0.5) == pytest.approx(1.0)
    assert 1e300 < evidence_above([1.0] * 500, 0.0) < np.inf


@pytest.mark.parametrize("floor", [0.3, 0.5])
def test_evidence_of_forty_is_an_interval_above(floor: float) -> None:
    """The gate's two questions are one: low > floor where E > 2/(1 − .95)."""
    generator = np.random.default_rng(6)
    found = [generator.binomial(8, floor + 0.07, 30) / 8 for _ in range(12)]
    above = [share_interval(values).low > floor for values in found]
    assert above == [evidence_above(values, floor) > 40 for values in found]
    assert 1 < sum(above) < 11


@pytest.mark.parametrize("null", gates.NULLS.values(), ids=gates.NULLS)
def test_a_year_of_nights_promotes_as_few_in_vain_as_its_bound_says(null: gates.Null) -> None:
    """20 years of nights without a better policy have 20 at most in expectation; 34 would come once in 300 tests."""
    for prompts in (8, 20):
        rate = gates.promotions(gates.a_year(1.0), null(2), prompts, 20 * gates.YEAR)
        assert rate * 20 * gates.YEAR <= 33
