"""Best-of-n: the choice, the unbiased estimator against brute force, the KL against an integral."""

from __future__ import annotations

import inspect
import math
from itertools import combinations

import numpy as np
import pytest
import torch

from rlhf.evaluation.best_of_n import choose_best, expected_best, kl_best_of_n


def test_the_first_of_equal_bests_is_chosen() -> None:
    """Ties go to the lowest index, for arrays and tensors alike."""
    scores = [[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [-1.0, -2.0, 0.0]]
    assert choose_best(np.array(scores)).tolist() == [1, 0, 2]
    assert choose_best(torch.tensor(scores)).tolist() == [1, 0, 2]


def test_expected_best_equals_the_sums_done_by_hand() -> None:
    """Scores 1, 2, 4: mean 7/3; pairs have bests 2, 4, 4; the triple has 4."""
    assert expected_best(np.array([[4.0, 1.0, 2.0]])) == pytest.approx([7 / 3, 10 / 3, 4.0])


@pytest.mark.parametrize("values", [2, 1000])
def test_expected_best_is_the_mean_over_all_subsets(values: int) -> None:
    """Every subset of every size, its best chosen by one judge and scored by another; also with many ties."""
    draw = np.random.default_rng(values)
    scores, judged = draw.integers(0, values, (5, 6)).astype(float), draw.normal(size=(5, 6))
    for given in (None, judged):
        counted = scores if given is None else given
        for n, found in enumerate(expected_best(scores, given), 1):
            bests = [
                counted[row, subset[int(np.argmax(scores[row, list(subset)]))]]
                for row in range(5)
                for subset in combinations(range(6), n)
            ]
            assert found == pytest.approx(np.mean(bests))


def test_expected_best_of_one_is_the_mean_and_never_falls() -> None:
    """n = 1 is plain sampling, n = K the maximum; more samples never hurt by the judge that chooses."""
    scores = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    found = expected_best(scores)
    assert found[0] == pytest.approx(float(scores.mean()))
    assert found[-1] == pytest.approx(float(scores.max(dim=1).values.mean()))
    assert (np.diff(found) > 0).all()


def test_expected_best_shows_over_optimisation() -> None:
    """Where the second judge thinks the opposite, its score falls as n grows."""
    scores = np.array([[1.0, 2.0, 3.0]])
    assert expected_best(scores, -scores) == pytest.approx([-2.0, -8 / 3, -3.0])


@pytest.mark.parametrize("n", [1, 2, 4, 8, 64])
def test_kl_equals_the_integral_over_ranks(n: int) -> None:
    """The best of n uniform ranks has density n·uⁿ⁻¹; its KL to the uniform is summed numerically."""
    u = (np.arange(400_000) + 0.5) / 400_000
    density = n * u ** (n - 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(density > 0, density * np.log(density), 0.0)
    assert kl_best_of_n(n) == pytest.approx(float(terms.mean()), abs=1e-4)


def test_kl_bounds_the_truth_from_above_when_samples_repeat() -> None:
    """Two answers at even odds: the best of two is the better one with ¾, KL = ¾ log 1.5 + ¼ log .5."""
    assert 0.75 * math.log(1.5) + 0.25 * math.log(0.5) < kl_best_of_n(2) == pytest.approx(math.log(2) - 0.5)


def test_what_cannot_be_chosen_from_is_named() -> None:
    """Shapes that differ, a nan and n = 0 are refused with the remedy."""
    with pytest.raises(ValueError, match=r"shape \(1, 2\), judged \(1, 3\)"):
        # Unwrapped, as it runs outside the tests, where no annotation is checked before.
        inspect.unwrap(expected_best)(np.ones((1, 2)), np.ones((1, 3)))
    with pytest.raises(ValueError, match=r"scores\[0\] holds a nan"):
        choose_best(np.array([[math.nan]]))
    with pytest.raises(ValueError, match="at least 1 sample"):
        kl_best_of_n(0)
