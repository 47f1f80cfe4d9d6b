"""The length-controlled win rate: counted by hand, against scikit-learn, and where length alone decides."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy.special import expit

from rlhf.evaluation.intervals import Interval
from rlhf.evaluation.length_control import RIDGE, length_controlled_win_rate
from rlhf.evaluation.winrate import win_rate


def of_wins(wins: list[float], lengths: list[float]) -> Interval:
    """One sample of each model a prompt; the baseline scores ½ and is 0 long."""
    column = np.array(wins)[:, None], np.full((len(wins), 1), 0.5)
    return length_controlled_win_rate(*column, np.array(lengths)[:, None], np.zeros((len(wins), 1)))


def test_wins_that_length_alone_explains_count_nothing() -> None:
    """Longer ones win 9 of 12, shorter ones 1 of 4: log 3 = θ + φx, −log 3 = θ − φx: θ = 0; the raw rate is 10/16."""
    wins, lengths = [1.0] * 9 + [0.0] * 3 + [1.0] + [0.0] * 3, [1.0] * 12 + [-1.0] * 4
    found = of_wins(wins, lengths)
    assert win_rate(np.array(wins)[:, None], np.full((16, 1), 0.5)).value == 10 / 16
    assert found.value == pytest.approx(0.5, abs=1e-4)
    assert found.low < 0.5 < found.high


def test_wins_at_any_length_count_in_full() -> None:
    """Longer and shorter ones win 3 of 4: θ = log 3, φ = 0."""
    found = of_wins([1.0, 1.0, 1.0, 0.0] * 2, [1.0] * 4 + [-1.0] * 4)
    assert found.value == pytest.approx(0.75, abs=1e-4)


def test_equal_lengths_leave_the_raw_rate() -> None:
    """Without a difference in length there is nothing to control; a tie is half a win."""
    assert of_wins([1.0, 0.5, 1.0, 0.0], [0.0] * 4).value == pytest.approx(2.5 / 4, abs=1e-4)


def test_it_is_the_logistic_regression_of_scikit_learn() -> None:
    """On every comparison of samples, a tie as half a win and half a loss, a prompt weighing 1; ridge 1 / C."""
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    scores, others = draw.integers(0, 4, (40, 3)) + 1.0, draw.integers(0, 4, (40, 2)) + 0.0
    lengths, other_lengths = draw.integers(5, 60, (40, 3)) + 0.0, draw.integers(5, 40, (40, 2)) + 0.0
    rows = [
        (lengths[i, s] - other_lengths[i, r], win, weight / 6)
        for i in range(40)
        for s in range(3)
        for r in range(2)
        for win, weight in ((1, (scores[i, s] > others[i, r]) + (scores[i, s] == others[i, r]) / 2),
                            (0, (scores[i, s] < others[i, r]) + (scores[i, s] == others[i, r]) / 2))
        if weight
    ]  # fmt: skip
    difference, win, weight = (np.array(column, float) for column in zip(*rows, strict=True))
    every = (lengths[:, :, None] - other_lengths[:, None, :]).std()
    terms = np.stack([np.ones_like(difference), np.tanh(difference / every)], 1)
    oracle = LogisticRegression(C=1 / RIDGE, fit_intercept=False, tol=1e-10, max_iter=1000)
    oracle.fit(terms, win, sample_weight=weight)
    found = length_controlled_win_rate(scores, others, lengths, other_lengths)
    assert found.value == pytest.approx(expit(oracle.coef_[0, 0]), abs=1e-5)
    assert found.value != pytest.approx(win_rate(scores, others).value, abs=1e-3)
    swapped = length_controlled_win_rate(others, scores, other_lengths, lengths)
    assert tuple(swapped) == pytest.approx((1 - found.value, 1 - found.high, 1 - found.low))


def test_the_interval_holds_the_rate_at_equal_lengths() -> None:
    """95 % of 400 nights of 60 prompts, the policy longer by half a deviation, and half of it length: at least 93 %."""
    draw, held = np.random.default_rng(1), 0
    for _ in range(400):
        lengths = draw.normal(0.5, 1.0, (60, 2))
        chance = expit(0.4 + 1.0 * np.tanh(lengths / lengths.std()))
        wins = (draw.random((60, 2)) < chance).astype(float)
        found = length_controlled_win_rate(wins, np.full((60, 1), 0.5), lengths, np.zeros((60, 1)))
        held += found.low < expit(0.4) < found.high
    assert held / 400 >= 0.93


def test_what_cannot_be_told_from_length_is_left_open() -> None:
    """All longer by the same, or two prompts: the interval is everything, so that no gate passes on it."""
    assert of_wins([1.0, 1.0, 0.0, 1.0], [3.0] * 4)[1:] == (0.0, 1.0)
    assert of_wins([1.0, 1.0], [1.0, -1.0])[1:] == (0.0, 1.0)
    assert 0.99 < of_wins([1.0] * 8, [1.0, -1.0] * 4).value < 1.0


def test_scores_and_lengths_of_other_shapes_are_refused() -> None:
    """With the shapes in the message."""
    ones, unchecked = np.ones((3, 2)), inspect.unwrap(length_controlled_win_rate)
    with pytest.raises(ValueError, match=r"scores have the shapes \(3, 2\) and \(3, 2\), lengths \(3, 1\)"):
        unchecked(ones, ones, ones[:, :1], ones)
