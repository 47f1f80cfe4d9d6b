"""The win rate and its interval: hand-derived figures, symmetry, clusters, coverage."""

from __future__ import annotations

import inspect
import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import binom

from rlhf.evaluation.intervals import evidence_above
from rlhf.evaluation.winrate import win_rate, win_shares
from tests.rlhf.evaluation import gates


def test_every_sample_meets_every_sample_of_its_prompt() -> None:
    """Wins count 1 and ties ½, over the four meetings of each prompt."""
    policy, baseline = np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 0.0]])
    # First: 2 beats both, 0 beats none: 2/4. Second: each 1 ties with 1 and beats 0: (½ + 1)·2/4.
    assert win_shares(policy, baseline).tolist() == [0.5, 0.75]
    assert win_rate(policy, baseline).value == 0.625


def test_unequal_numbers_of_samples_and_tensors_are_taken() -> None:
    """One sample of the baseline stands against three of the policy; tensors score as arrays do."""
    policy, baseline = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0]], dtype=torch.bfloat16)
    assert win_shares(policy, baseline).tolist() == [0.5]
    assert win_rate(policy.numpy(), baseline.float().numpy()) == win_rate(policy, baseline)


@pytest.mark.parametrize("prompts", [1, 2, 3, 4, 5, 6, 20])
def test_all_wins_leave_the_doubt_that_so_many_prompts_leave(prompts: int) -> None:
    """N wins of N lie above a rate p with chance pᴺ: the lower end is .025^(1/N), above even from 6 prompts on.

    One prompt says nothing; all losses mirror all wins, and all ties leave both sides open.
    """
    ones, zeros = np.ones((prompts, 2)), np.zeros((prompts, 2))
    found, lost = win_rate(ones, zeros), win_rate(zeros, ones)
    assert (found.value, found.high) == (1.0, pytest.approx(1.0))
    assert found.low == pytest.approx(0.0 if prompts == 1 else 0.025 ** (1 / prompts), abs=1e-6)
    assert (found.low > 0.5) == (prompts >= 6)
    assert lost == pytest.approx((0.0, 1 - found.high, 1 - found.low))
    infinite = np.full((prompts, 1), np.inf)
    tie = win_rate(infinite, infinite)
    assert tie.low < tie.value == 0.5 < tie.high


def test_swapping_the_models_mirrors_rate_and_interval() -> None:
    """rate ↔ 1 - rate, low ↔ 1 - high."""
    draw = np.random.default_rng(0)
    policy, baseline = draw.integers(0, 4, (40, 3)).astype(float), draw.integers(0, 3, (40, 2)).astype(float)
    ours, theirs = win_rate(policy, baseline), win_rate(baseline, policy)
    assert (theirs.value, theirs.low, theirs.high) == pytest.approx((1 - ours.value, 1 - ours.high, 1 - ours.low))
    assert ours.low < ours.value < ours.high


def test_nothing_is_drawn() -> None:
    """The interval is a function of the shares, in whatever order."""
    draw = np.random.default_rng(1)
    policy, baseline = draw.normal(size=(30, 2)), draw.normal(size=(30, 2))
    assert win_rate(policy, baseline) == pytest.approx(win_rate(policy[::-1], baseline[::-1]), abs=1e-12)


def test_copies_of_a_sample_make_the_interval_no_narrower() -> None:
    """Prompts are resampled, not samples: ten copies of each sample tell nothing new."""
    draw = np.random.default_rng(2)
    policy, baseline = draw.normal(size=(50, 1)), draw.normal(size=(50, 1))
    copied = win_rate(policy.repeat(10, axis=1), baseline.repeat(10, axis=1))
    assert copied == pytest.approx(win_rate(policy, baseline))


def test_the_interval_is_as_wide_as_the_standard_error_says() -> None:
    """For many prompts it is rate ± 1.96 · sd / √N, an independent formula."""
    draw = np.random.default_rng(3)
    policy, baseline = draw.normal(0.5, 1.0, (800, 2)), draw.normal(0.0, 1.0, (800, 2))
    found = win_rate(policy, baseline)
    half = 1.96 * win_shares(policy, baseline).std() / math.sqrt(800)
    assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.1 * half)


def test_intervals_cover_the_known_truth_about_as_often_as_they_say() -> None:
    """Prompts are easy or hard; the true rate is the mean of Φ(shift / √2), the interval covers 95 %."""
    draw, covered, trials = np.random.default_rng(4), 0, 200
    shifts = (-1.0, 2.0)
    truth = sum(0.5 * (1 + math.erf(shift / 2)) for shift in shifts) / 2
    for _ in range(trials):
        shift = draw.choice(shifts, size=(60, 1))
        policy, baseline = draw.normal(size=(60, 2)) + shift, draw.normal(size=(60, 2))
        shares = win_shares(policy, baseline)  # evidence of more than 40, on either side, leaves the truth outside
        covered += max(evidence_above(shares, truth), evidence_above(1 - shares, 1 - truth)) <= 40
    # Binomial(200, .95) has a standard deviation of 1.5 %; resampling samples would cover about 85 %.
    assert 0.90 <= covered / trials <= 0.99


@pytest.mark.parametrize("samples", gates.SAMPLES)
@pytest.mark.parametrize("null", gates.NULLS.values(), ids=gates.NULLS)
def test_a_policy_that_is_no_better_passes_in_one_night_of_forty_at_most(null: gates.Null, samples: int) -> None:
    """Whatever the scores, at 5 to 500 prompts, 1 to 4 samples.

    Of 500 nights 12.5 are expected at most; 26 or more would come in one cell of 2,000 if it were just so many.
    """
    for prompts in gates.PROMPTS:
        assert gates.promotions(gates.used, null(samples), prompts, 500) <= 0.05


@pytest.mark.parametrize("prompts", [5, 8, 20, 50])
def test_of_two_shares_the_chance_of_a_false_promotion_is_known(prompts: int) -> None:
    """Whichever two shares of four samples a policy's prompts have, with mean ½: their numbers are binomial.

    Nothing is drawn: over all nights that there can be, no more than 1 of 40 promotes, nor than 1 of 365.
    """
    grid, won = gates.shares(4), np.arange(prompts + 1)
    nights = np.stack([prompts - won, won], axis=1)
    for low, high in product(grid[grid < 0.5], grid[grid > 0.5]):
        likely = binom.pmf(won, prompts, (0.5 - low) / (high - low))
        found = gates.chances_even(nights, np.array([low, high]))
        for tail in (0.025, 1 / 365):
            assert likely[found < tail].sum() <= tail


@pytest.mark.parametrize(
    ("policy", "baseline", "message"),
    [
        (np.ones((2, 1)), np.ones((3, 1)), "2 prompts, baseline_scores 3"),
        (np.ones(2), np.ones(2), r"shape \(2,\)"),
        (np.ones((0, 1)), np.ones((0, 1)), r"shape \(0, 1\)"),
        (np.array([[1.0], [np.nan]]), np.ones((2, 1)), r"policy_scores\[1\] holds a nan"),
    ],
)
def test_scores_that_cannot_be_compared_are_named(policy: np.ndarray, baseline: np.ndarray, message: str) -> None:
    """The error says what was found and what to give; outside the tests no annotation is checked before."""
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(win_shares)(policy, baseline)


def test_a_coverage_out_of_range_is_refused() -> None:
    """One of everything is a mistake."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        win_rate(np.ones((1, 1)), np.ones((1, 1)), confidence=1.0)
