"""The reward model's metrics, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlhf.reward.metrics import (
    accuracy,
    accuracy_by_margin,
    auc,
    calibration,
    correlations,
    expected_calibration_error,
    spread_auc,
)

CHOSEN, REJECTED = np.array([3.0, 1.0, 2.0, 0.0]), np.array([1.0, 2.0, 2.0, -1.0])


def test_accuracy_counts_an_equal_score_half() -> None:
    """Right, wrong, equal, right: 2½ of 4."""
    assert accuracy(CHOSEN, REJECTED) == 0.625


def test_auc_compares_every_chosen_with_every_rejected() -> None:
    """Against 1, 2, 2, -1: 3 beats 4; 1 beats 1 and ties 1; 2 beats 2 and ties 2; 0 beats 1: 9½ of 16."""
    assert auc(CHOSEN, REJECTED) == pytest.approx(9.5 / 16)


def test_accuracy_sees_pairs_and_auc_sees_all() -> None:
    """Right within every prompt, but the scores of the prompts lie apart: accuracy 1, AUC 3 of 4."""
    chosen, rejected = np.array([1.0, 11.0]), np.array([0.0, 10.0])
    assert accuracy(chosen, rejected) == 1.0
    assert auc(chosen, rejected) == 0.75


def test_correlations_by_hand() -> None:
    """Differences 1 and -2 at margins 1 and 2, with their mirrors -1, 2 at -1, -2.

    Pearson: (1·1 - 2·2 + 1·1 - 2·2) / (1 + 4 + 1 + 4) = -.6. Spearman: the differences 1, -2, -1, 2 rank 3, 1, 2, 4
    and the margins 1, 2, -1, -2 rank 3, 4, 2, 1, so 1 - 6·(0 + 9 + 0 + 9)/(4·15) = -.8.
    """
    spearman, pearson = correlations(np.array([1.0, 0.0]), np.array([0.0, 2.0]), np.array([1.0, 2.0]))
    assert pearson == pytest.approx(-0.6)
    assert spearman == pytest.approx(-0.8)


def test_correlations_of_a_model_with_every_sign_wrong_are_minus_one() -> None:
    """Scores that fall as margins rise: the mirror image of each pair shows it."""
    margins = np.array([1.0, 2.0, 3.0])
    assert correlations(margins, np.zeros(3), margins) == pytest.approx((1.0, 1.0))
    assert correlations(np.zeros(3), margins, margins) == pytest.approx((-1.0, -1.0))


def test_calibration_by_hand() -> None:
    """Differences of log 3 (confidence ¾) right, right, wrong and log 19 (.95) right, in ten bins.

    Two bins have pairs: three of ¾, of which ⅔ are right, and one of .95 that is. The error is
    |⅔ - ¾|·¾ + |1 - .95|·¼ = .0625 + .0125.
    """
    difference = np.array([math.log(3), math.log(3), -math.log(3), math.log(19)])
    bins = calibration(difference, np.zeros(4))
    assert bins == [pytest.approx((0.75, 2 / 3, 3)), pytest.approx((0.95, 1.0, 1))]
    assert expected_calibration_error(bins) == pytest.approx(0.075)


def test_calibration_error_at_the_ends() -> None:
    """Always sure and right: 0; always sure and wrong: 1; never sure, by equal scores: 0."""
    sure = np.full(3, 50.0)
    assert expected_calibration_error(calibration(sure, -sure)) == pytest.approx(0.0)
    assert expected_calibration_error(calibration(-sure, sure)) == pytest.approx(1.0)
    assert expected_calibration_error(calibration(sure, sure)) == pytest.approx(0.0)


def test_accuracy_by_margin_by_hand() -> None:
    """Margins 1 … 6 in three parts: (1, 2) right and wrong, (3, 4) right and equal, (5, 6) right."""
    chosen = np.array([1.0, -1.0, 1.0, 0.0, 1.0, 1.0])
    parts = accuracy_by_margin(chosen, np.zeros(6), np.arange(1.0, 7.0))
    assert parts == [(1.0, 2.0, 0.5), (3.0, 4.0, 0.75), (5.0, 6.0, 1.0)]


@pytest.mark.parametrize(
    ("margins", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0], [(1.0, 1.0, 0.75)]),
        ([1.0, 1.0, 1.0, 2.0], [(1.0, 1.0, 2 / 3), (2.0, 2.0, 1.0)]),
        ([1.0, 2.0, 2.0, 2.0], [(1.0, 2.0, 0.75)]),
        ([1.0, 1.0, 1.0, 2.0, 2.0, 3.0], [(1.0, 1.0, 2 / 3), (2.0, 2.0, 1.0), (3.0, 3.0, 1.0)]),
    ],
)
def test_equal_margins_are_in_one_part(margins: list[float], expected: list[tuple[float, float, float]]) -> None:
    """Each pair counts once, so that ranks' margins, which take few values, make no part twice; the first is wrong."""
    chosen = np.ones(len(margins))
    chosen[0] = -1.0
    parts = accuracy_by_margin(chosen, np.zeros(len(margins)), np.array(margins))
    assert parts == [pytest.approx(part) for part in expected]


def test_spread_tells_wrong_pairs_from_right_ones() -> None:
    """Wrong pairs with spreads 3 and 1 against right ones with 2 and 1: above 2 and 1, below 2 and tied: 2½ of 4."""
    correct = np.array([False, True, False, True])
    assert spread_auc(correct, np.array([3.0, 2.0, 1.0, 1.0])) == 0.625
    assert spread_auc(~correct, np.array([3.0, 2.0, 1.0, 1.0])) == 0.375


def test_spread_has_nothing_to_tell_where_all_pairs_are_right() -> None:
    """Or all wrong: chance."""
    assert spread_auc(np.array([True, True]), np.array([1.0, 2.0])) == 0.5
    assert spread_auc(np.array([False, False]), np.array([1.0, 2.0])) == 0.5
