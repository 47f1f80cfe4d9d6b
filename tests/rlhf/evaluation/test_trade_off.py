"""The trade between a scorer's wins and ROUGE-L."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf.evaluation.trade_off import traded_scores

WINS = np.array([1.0, 0.5, 0.75])
ROUGE = np.array([0.60, 0.72, 0.50])
BASELINE = np.array([0.64, 0.70, 0.51])


def test_a_fall_of_rouge_costs_weight_times_as_much_in_wins() -> None:
    """1 + 5·(−.04) = .8; .5 + 5·.02 = .6; .75 + 5·(−.01) = .7; their mean .7 is .75 + 5·(−.01)."""
    scores = traded_scores(WINS, ROUGE, BASELINE, 5.0)
    assert scores == pytest.approx([0.8, 0.6, 0.7])
    assert scores.mean() == pytest.approx(WINS.mean() + 5.0 * (ROUGE.mean() - BASELINE.mean()))


def test_without_weight_the_wins_alone_count() -> None:
    """λ = 0."""
    assert traded_scores(WINS, ROUGE, BASELINE, 0.0).tolist() == WINS.tolist()


def test_the_baseline_itself_has_one_half() -> None:
    """It ties every comparison, and its ROUGE-L is its own, whatever the weight."""
    assert traded_scores(np.full(3, 0.5), BASELINE, BASELINE, 7.0).tolist() == [0.5, 0.5, 0.5]
