"""What test prompts can tell: against a simulation, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from rlhf.evaluation.intervals import Interval, evidence_above, share_interval
from rlhf.evaluation.power import detectable, power_at, warning


def test_the_rate_that_is_found_by_hand() -> None:
    """98 shares of 0 and 1 in equal parts, with the two that are added: s = ½, so z·s/√N = .8416·.5/√98 = .0425."""
    shares = np.array([0.0, 1.0] * 49)
    assert detectable(shares, Interval(0.5, 0.4, 0.6)) == pytest.approx(0.5 + 0.1 + 0.0425, abs=1e-4)
    assert power_at(shares, Interval(0.5, 0.4, 0.6)) == pytest.approx(0.5)
    assert power_at(shares, Interval(0.5, 0.4, 0.6), rate=0.5 + 0.1 + 0.0425) == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("prompts", [20, 60])
def test_the_power_is_the_share_of_nights_that_find_such_a_policy(prompts: int) -> None:
    """Of nights drawn at the rate that is detectable, about 8 of 10 have their interval above even."""
    generator = np.random.default_rng(0)

    def night(rate: float) -> np.ndarray:
        return generator.binomial(4, rate, prompts) / 4

    shares = night(0.6)
    rate = detectable(shares, share_interval(shares))
    assert 0.55 < rate < 0.85
    share = np.mean([evidence_above(night(rate), 0.5) > 40 for _ in range(150)])
    assert 0.7 < share < 0.95


def test_one_prompt_finds_nothing_and_shares_that_agree_are_not_taken_for_certain() -> None:
    """[0, 1] lies above even at no rate; with no spread at all, some is assumed."""
    one = np.ones(1)
    assert detectable(one, share_interval(one)) == 1.0
    assert power_at(one, share_interval(one)) < 0.25
    ties = np.full(340, 0.5)
    assert 0.5 < detectable(ties, Interval(0.5, 0.5, 0.5)) < 0.51


def test_a_warning_says_what_the_prompts_could_show() -> None:
    """Below a chance of 80 % to find a rate of .6, and not from there on."""
    said = warning(12, 0.31, 0.74)
    assert said is not None
    assert "with these 12, a policy whose true win rate is 0.6 is found better in 31% of nights" in said
    assert "only one of 0.74 in 80%" in said
    assert warning(340, 0.8, 0.53) is None
