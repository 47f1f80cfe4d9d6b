"""The tests of drift: by hand, against scipy, and how often they warn of nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from rlhf.drift import Shift, holm, level_shift, mean_shift, rank_shift, share_shift, value_shift, word_shift


def test_numbers_lie_as_far_apart_as_their_distributions() -> None:
    """Of {1, 2, 3} and {3, 4} the first has 2/3 below 3, the second none: D = 2/3, and p counts divisions.

    D is at least 2/3 in 6 of the 10 divisions of 5 distinct ranks into 3 and 2; here in fewer, for two are equal.
    """
    found = value_shift([1, 2, 3], [3, 4])
    assert found.distance == pytest.approx(2 / 3)
    assert found.p == pytest.approx(0.6)


def test_numbers_against_a_loop() -> None:
    """D by looking at every number in turn."""
    generator = np.random.default_rng(0)
    before, after = generator.integers(0, 30, 80).tolist(), generator.integers(5, 40, 50).tolist()
    naive = max(
        abs(sum(x <= at for x in before) / len(before) - sum(y <= at for y in after) / len(after))
        for at in {*before, *after}
    )
    assert value_shift(before, after).distance == pytest.approx(naive)


def test_means_against_every_division() -> None:
    """[0, 0, 0, 1] and [1, 1]: |¼ − 1| = ¾, as in the 3 of 15 divisions whose two are ones, and the 3 whose two are
    zeros: |¾ − 0|.
    """
    found = mean_shift([0, 0, 0, 1], [1, 1], resamples=20000)
    assert found.distance == pytest.approx(0.75)
    assert found.p == pytest.approx(6 / 15, abs=0.015)


def test_means_against_scipy() -> None:
    """Its permutation test, which divides the rows themselves."""
    generator = np.random.default_rng(1)
    before, after = generator.random(30).round(1), generator.random(20).round(1) + 0.1

    def difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.abs(x.mean(axis) - y.mean(axis))

    oracle = stats.permutation_test(
        (before, after), difference, n_resamples=20000, alternative="greater", rng=np.random.default_rng(2)
    )
    found = mean_shift(before.tolist(), after.tolist(), resamples=20000)
    assert found.distance == pytest.approx(float(oracle.statistic))
    assert found.p == pytest.approx(float(oracle.pvalue), abs=0.012)


def test_shares_against_fishers_exact_test() -> None:
    """With equal rows both order the tables of two kinds alike: 8 and 2 against 3 and 7 give p = .0698."""
    found = share_shift({"a": 8, "b": 2}, {"a": 3, "b": 7}, resamples=20000)
    assert found.distance == pytest.approx(0.5)
    assert found.p == pytest.approx(float(stats.fisher_exact([[8, 2], [3, 7]]).pvalue), abs=0.006)


def test_shares_of_many_rows_against_chi_square() -> None:
    """Where counts are large, the table of χ² holds; a kind that one side lacks counts as none of it."""
    before, after = {"a": 400, "b": 300, "c": 300}, {"a": 170, "b": 170, "d": 1, "c": 159}
    found = share_shift(before, {key: rows for key, rows in after.items() if key != "d"}, resamples=20000)
    oracle = stats.chi2_contingency([[400, 300, 300], [170, 170, 159]])
    assert found.p == pytest.approx(float(oracle.pvalue), abs=0.012)
    assert share_shift(before, after).distance == pytest.approx(0.5 * (60 + 40 + 18 + 2) / 1000)


def test_shares_of_a_rare_kind_against_random_tables() -> None:
    """A kind that few rows have weighs as much as its expectation is small: scipy's χ² among random tables."""
    before, after = {"a": 90, "b": 8, "c": 2}, {"a": 40, "b": 3, "c": 7}
    drawn = stats.MonteCarloMethod(n_resamples=20000, rng=np.random.default_rng(4))
    oracle = stats.chi2_contingency([list(before.values()), list(after.values())], correction=False, method=drawn)
    assert share_shift(before, after, resamples=20000).p == pytest.approx(float(oracle.pvalue), abs=0.004)


def test_words_lie_as_far_apart_as_scipy_says() -> None:
    """Of their frequencies, in bits; disjoint words are at 1, equal ones at 0."""
    before, after = [[0, 0, 1], [2, 1]], [[1, 3], [2, 2, 2]]
    frequencies = [[2 / 5, 2 / 5, 1 / 5, 0], [0, 1 / 5, 3 / 5, 1 / 5]]
    assert word_shift(before, after, 99).distance == pytest.approx(jensenshannon(*frequencies, base=2))
    assert word_shift([[0], [1]], [[2, 3]], 99).distance == pytest.approx(1.0)
    assert word_shift([[0, 1]], [[0, 1]], 99) == Shift(0.0, 1.0)


def test_texts_are_divided_not_words() -> None:
    """Six texts, each of one word 50 times: 3 against 3 is one of 10 divisions, however many words there are."""
    found = word_shift([[0] * 50] * 3, [[1] * 50] * 3, resamples=5000)
    assert 0.05 < found.p < 0.2


def test_words_against_every_division() -> None:
    """All 35 divisions of seven texts into four and three, each measured by scipy."""
    texts = [[0, 0, 1], [0, 1], [2, 0, 0, 0], [1, 0], [3, 3, 1], [3, 2], [0, 3]]

    def distance(after: tuple[int, ...]) -> float:
        sides = ([word for n, text in enumerate(texts) if (n in after) == inside for word in text] for inside in (0, 1))
        return float(jensenshannon(*(np.bincount(side, minlength=4) / len(side) for side in sides), base=2))

    observed = distance((4, 5, 6))
    exact = np.mean([distance(after) >= observed - 1e-9 for after in combinations(range(7), 3)])
    found = word_shift(texts[:4], texts[4:], resamples=20000)
    assert found.distance == pytest.approx(observed)
    # The 20th hit ends the draws, so p is known to a fifth of itself.
    mean = np.mean([word_shift(texts[:4], texts[4:], seed=seed).p for seed in range(200)])
    assert mean == pytest.approx(float(exact), rel=0.1)


def test_what_no_division_reaches_is_as_rare_as_the_draws_can_say() -> None:
    """1 / (1 + resamples), never 0: of the C(60, 20) divisions no other so far apart is drawn."""
    smallest = pytest.approx(1 / 1000, abs=1e-12)
    assert mean_shift([0.0] * 40, [1.0] * 20, 999).p == smallest
    assert share_shift({"a": 40}, {"b": 20}, 999).p == smallest
    assert word_shift([[0]] * 40, [[1]] * 20, 999).p == smallest


def test_rare_divisions_are_counted_over_all_draws() -> None:
    """Five texts of one word against five of another: 2 of C(10, 5) = 252 divisions, in a few of every 256 draws."""
    assert word_shift([[0]] * 5, [[1]] * 5).p == pytest.approx(2 / 252, rel=0.6)


def test_divisions_that_are_as_far_count_whatever_rounding_says() -> None:
    """Tenths, which have no exact sums, beside all divisions of them as whole numbers."""
    before, after = [3, 6, 2, 6, 2], [3, 2, 1, 6]
    rows, observed = [*before, *after], abs(5 * sum(after) - 4 * sum(before))
    chosen = (sum(rows[place] for place in places) for places in combinations(range(9), 4))
    exact = np.mean([abs(5 * drawn - 4 * (sum(rows) - drawn)) >= observed for drawn in chosen])
    found = mean_shift([row / 10 for row in before], [row / 10 for row in after], 9999)
    assert found.p == pytest.approx(float(exact), abs=0.03)


def test_agreement_in_order_by_hand() -> None:
    """Neighbours change places five times: Σd² = 10 of n = 10, ρ = 1 − 60/990 = .93939, atanh ρ = 1.73286.

    Against .95, whose atanh is 1.83178: z = (1.73286 − 1.83178) / √(1.06 / 7) = −.25420, Φ(z) = .39967.
    """
    found = rank_shift(range(10), [1, 0, 3, 2, 5, 4, 7, 6, 9, 8], 0.95)
    assert found == pytest.approx((0.5 * 60 / 990, 0.39967), abs=1e-4)


def test_a_model_that_scored_all_alike_has_no_deviation() -> None:
    """Then levels count as they are: all one higher is beyond ½ for certain, and within 2 for certain."""
    assert level_shift([1.0] * 10, [2.0] * 10, 0.5) == Shift(1.0, 0.0)
    assert level_shift([1.0] * 10, [2.0] * 10, 2.0) == Shift(1.0, 1.0)


def test_agreement_in_order_is_held_to_a_bound() -> None:
    """ρ at the bound is as likely below as above it; a model turned round is certain to be below."""
    before = list(np.random.default_rng(0).normal(size=50))
    same = rank_shift(before, [2 * value + 1 for value in before], 0.5)
    assert same.distance == pytest.approx(0.0)
    assert same.p == pytest.approx(1.0, abs=1e-6)
    turned = rank_shift(before, [-value for value in before], 0.5)
    assert turned.distance == pytest.approx(1.0)
    assert turned.p < 1e-9
    mixed = [value + 1.7 * other for value, other in zip(before, np.random.default_rng(1).normal(size=50), strict=True)]
    rho = float(stats.spearmanr(before, mixed).statistic)
    assert rank_shift(before, mixed, rho).p == pytest.approx(0.5)
    assert rank_shift(before, [1.0] * 50, 0.5).distance == 0.5


def test_levels_against_scipy() -> None:
    """Student's test of the differences, in deviations of those before; a shift down counts as one up."""
    generator = np.random.default_rng(3)
    before = generator.normal(size=40)
    after = before + generator.normal(0.8, 0.5, 40)
    differences = (after - before) / before.std(ddof=1)
    oracle = stats.ttest_1samp(differences, 0.5, alternative="greater")
    found = level_shift(before.tolist(), after.tolist(), 0.5)
    assert found == pytest.approx((float(differences.mean()), float(oracle.pvalue)))
    down = level_shift(before.tolist(), (2 * before - after).tolist(), 0.5)
    assert down == pytest.approx(found)
    assert level_shift(before.tolist(), before.tolist(), 0.5) == Shift(0.0, 1.0)


def test_p_values_are_adjusted_step_by_step() -> None:
    """Holm: .01·4, .02·3, .03·2 (not below the one before), .5·1; in the order that they came in."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("before", "after"), [([], [1.0]), ([1.0], [])])
def test_nothing_is_compared_with_nothing(before: list[float], after: list[float]) -> None:
    """An error that says what there was."""
    for test in (value_shift, mean_shift):
        with pytest.raises(ValueError, match=r"values before and .* give at least 1 of each"):
            test(before, after)
    with pytest.raises(ValueError, match="give at least 1 of each"):
        share_shift(Counter(map(str, before)), Counter(map(str, after)))
    with pytest.raises(ValueError, match="give two of each of at least 10 texts"):
        rank_shift(before, after, 0.5)


def test_scores_of_other_texts_are_not_compared() -> None:
    """One more on one side; and texts without a word have no frequencies."""
    for test in (rank_shift, level_shift):
        with pytest.raises(ValueError, match="found 12 and 11 scores"):
            test([1.0] * 12, [1.0] * 11, 0.5)
    with pytest.raises(ValueError, match="found 0 values before and 1 new ones"):
        word_shift([[], []], [[1]])


def _lengths(generator: np.random.Generator) -> Shift:
    return value_shift(generator.poisson(12, 60).tolist(), generator.poisson(12, 25).tolist())


def _ties(generator: np.random.Generator) -> Shift:
    before, after = ((generator.random(size) < 0.1).astype(float).tolist() for size in (60, 25))
    return mean_shift(before, after, resamples=199)


def _kinds(generator: np.random.Generator) -> Shift:
    shares = [0.9, 0.05, 0.03, 0.01, 0.01]
    before, after = (Counter(generator.choice(list("abcde"), size, p=shares)) for size in (60, 25))
    return share_shift(before, after, resamples=199)


def _words(generator: np.random.Generator) -> Shift:
    """Texts that repeat their words: each has a topic."""
    texts = [(generator.integers(6) * 3 + generator.integers(0, 5, 8)).tolist() for _ in range(40)]
    return word_shift(texts[:25], texts[25:], resamples=199)


def _orders(generator: np.random.Generator) -> Shift:
    # Of normal scores with correlation r, Spearman's is 6/π·asin(r/2).
    r = 2 * math.sin(math.pi / 6 * 0.5)
    before = generator.normal(size=40)
    return rank_shift(before.tolist(), (r * before + math.sqrt(1 - r * r) * generator.normal(size=40)).tolist(), 0.5)


def _levels(generator: np.random.Generator) -> Shift:
    before = generator.normal(size=40)
    noise = generator.normal(0, 0.7, 40)
    return level_shift(before.tolist(), (before + 0.5 * before.std(ddof=1) + noise).tolist(), 0.5)


@pytest.mark.parametrize("draw", [_lengths, _ties, _kinds, _words, _orders, _levels])
def test_without_drift_a_test_warns_as_rarely_as_it_says(draw: Callable[[np.random.Generator], Shift]) -> None:
    """At α = .1 in at most a tenth of 300 nights, within three deviations of counting; and it does warn."""
    generator = np.random.default_rng(7)
    found = [draw(generator).p for _ in range(300)]
    for level in (0.02, 0.1):
        assert np.mean(np.array(found) <= level) <= level + 3 * math.sqrt(level * (1 - level) / 300)
    assert min(found) < 0.1


@pytest.mark.parametrize(
    "found",
    [
        value_shift(list(range(40)), list(range(30, 60))),
        mean_shift([0.0] * 40, [0.0] * 20 + [1.0] * 10, 999),
        share_shift({"Latin": 60}, {"Latin": 20, "Arabic": 10}, 999),
        word_shift([[0, 1, 2]] * 30, [[0, 1, 3]] * 10, 999),
    ],
)
def test_drift_is_seen(found: Shift) -> None:
    """Longer texts, more ties, another script, another word."""
    assert found.p <= 0.001
    assert found.distance > 0.1
