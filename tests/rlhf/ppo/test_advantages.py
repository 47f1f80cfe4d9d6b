"""Advantages: GAE by hand with ragged masks, its two limits of λ and a naive loop; those of groups by hand."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlhf.ppo.advantages import generalized_advantages, group_normalised_advantages, leave_one_out_advantages

NAN = float("nan")


def test_advantages_by_hand_with_ragged_rows() -> None:
    """γ = ½, λ = ½, and whatever stands in padded places is never read.

    Row one, r = 0, 0, 8 and V = 2, 4, 4. δ = 0 + ½·4 - 2 = 0; 0 + ½·4 - 4 = -2; 8 - 4 = 4.
    A₃ = 4, A₂ = -2 + ¼·4 = -1, A₁ = 0 + ¼·(-1) = -¼; returns 1¾, 3, 8.
    Row two has one token: r = 1, V = 3, so A = -2 and the return is 1.
    """
    rewards = torch.tensor([[0.0, 0.0, 8.0], [1.0, NAN, NAN]])
    values = torch.tensor([[2.0, 4.0, 4.0], [3.0, NAN, NAN]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    ours = generalized_advantages(rewards, values, mask, discount=0.5, gae_lambda=0.5)
    torch.testing.assert_close(ours.advantages, torch.tensor([[-0.25, -1.0, 4.0], [-2.0, 0.0, 0.0]]))
    torch.testing.assert_close(ours.returns, torch.tensor([[1.75, 3.0, 8.0], [1.0, 0.0, 0.0]]))


def test_a_masked_step_in_the_middle_carries_the_next_values_through() -> None:
    """A row with a hole has the advantages of the row without it: a tool's output in a turn is no step."""
    with_hole = generalized_advantages(
        torch.tensor([[1.0, 50.0, 2.0]]),
        torch.tensor([[0.5, 70.0, 0.3]]),
        torch.tensor([[True, False, True]]),
        discount=0.9,
        gae_lambda=0.8,
    )
    without = generalized_advantages(
        torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.3]]), torch.ones(1, 2, dtype=torch.bool), 0.9, 0.8
    )
    torch.testing.assert_close(with_hole.advantages[:, ::2], without.advantages)
    assert with_hole.advantages[0, 1] == with_hole.returns[0, 1] == 0.0


def naive(
    rewards: list[float], values: list[float], discount: float, gae_lambda: float
) -> tuple[list[float], list[float]]:
    """A_t = Σ_k (γλ)^k·δ_{t+k}, summed forward as the paper's equation 16 has it, for one row without padding."""
    following = [*values[1:], 0.0]
    deltas = [r + discount * after - now for r, now, after in zip(rewards, values, following, strict=True)]
    advantages = [
        sum((discount * gae_lambda) ** k * delta for k, delta in enumerate(deltas[start:]))
        for start in range(len(deltas))
    ]
    return advantages, [advantage + value for advantage, value in zip(advantages, values, strict=True)]


NUMBERS = st.floats(-3, 3, width=32)
ROWS = st.lists(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=6), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, discount=st.floats(0, 1), gae_lambda=st.floats(0, 1))
def test_any_ragged_batch_equals_a_naive_sum_row_by_row(
    rows: list[list[tuple[float, float]]], discount: float, gae_lambda: float
) -> None:
    """Padding, batching and the backward recursion change nothing."""
    width = max(map(len, rows)) + 1
    rewards, values, mask = torch.full((3, len(rows), width), 9.0)
    for row, steps in enumerate(rows):
        for step, (reward, value) in enumerate(steps):
            rewards[row, step], values[row, step] = reward, value
    lengths = torch.tensor([len(steps) for steps in rows])
    mask = torch.arange(width)[None] < lengths[:, None]
    ours = generalized_advantages(rewards, values, mask, discount, gae_lambda)
    for row, steps in enumerate(rows):
        advantages, returns = naive([r for r, _ in steps], [v for _, v in steps], discount, gae_lambda)
        torch.testing.assert_close(ours.advantages[row, : len(steps)], torch.tensor(advantages), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.returns[row, : len(steps)], torch.tensor(returns), atol=1e-4, rtol=1e-4)
        assert ours.advantages[row, len(steps) :].abs().sum() == 0.0


def random_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    mask = torch.arange(5)[None] < torch.tensor([5, 2, 4])[:, None]
    return torch.randn(3, 5, generator=draw), torch.randn(3, 5, generator=draw), mask


def test_lambda_one_gives_the_discounted_return_minus_the_value() -> None:
    """Then the returns do not depend on the values at all: Σ_k γ^k·r_{t+k}."""
    rewards, values, mask = random_batch()
    ours = generalized_advantages(rewards, values, mask, discount=0.9, gae_lambda=1.0)
    discounted = torch.zeros(3, 5)
    for row in range(3):
        for step in range(int(mask[row].sum())):
            rest = rewards[row, step : int(mask[row].sum())]
            discounted[row, step] = sum(0.9**k * reward for k, reward in enumerate(rest))
    torch.testing.assert_close(ours.returns, discounted)
    torch.testing.assert_close(ours.advantages, torch.where(mask, discounted - values, 0.0))


def test_lambda_zero_gives_the_one_step_error() -> None:
    """A_t = r_t + γ·V_{t+1} - V_t, with nothing after the last token."""
    rewards, values, mask = random_batch()
    ours = generalized_advantages(rewards, values, mask, discount=0.9, gae_lambda=0.0)
    following = torch.cat([torch.where(mask, values, 0.0)[:, 1:], torch.zeros(3, 1)], dim=1)
    torch.testing.assert_close(ours.advantages, torch.where(mask, rewards + 0.9 * following - values, 0.0))


def test_leave_one_out_advantages_by_hand() -> None:
    """Groups (1, 2, 6) and (0, 0, 3): 1 − (2 + 6)/2 = −3, 2 − 3.5 = −1.5, 6 − 1.5 = 4.5; −1.5, −1.5 and 3."""
    found = leave_one_out_advantages(torch.tensor([1.0, 2.0, 6.0, 0.0, 0.0, 3.0]), 3).advantages
    torch.testing.assert_close(found, torch.tensor([-3.0, -1.5, 4.5, -1.5, -1.5, 3.0]))


def test_a_completion_with_nothing_to_compare_with_keeps_its_return() -> None:
    """A group of one has no baseline."""
    returns = torch.tensor([0.5, -2.0])
    assert torch.equal(leave_one_out_advantages(returns, 1).advantages, returns)


def test_group_normalised_advantages_by_hand() -> None:
    """(1, 3): mean 2, deviation 1, so ∓1 / 1.0001; a group of equal returns learns nothing."""
    found = group_normalised_advantages(torch.tensor([1.0, 3.0, 7.0, 7.0]), 2).advantages
    torch.testing.assert_close(found, torch.tensor([-0.9999, 0.9999, 0.0, 0.0]), atol=1e-6, rtol=0)


@given(st.floats(-5, 5, width=32), st.integers(2, 7))
def test_equal_figures_differ_by_exactly_nothing(figure: float, group: int) -> None:
    """Five times 3.3614123 has another mean in float32; the baseline is the figure itself."""
    figures = torch.full((group,), figure)
    for advantages_of in (leave_one_out_advantages, group_normalised_advantages):
        found = advantages_of(figures, group)
        assert not found.advantages.any()
        assert torch.equal(found.baselines, figures)


def test_what_a_group_is_held_against_by_hand() -> None:
    """1 and 3 against the others' 3 and 1, or against their mean 2."""
    scores = torch.tensor([1.0, 3.0])
    assert leave_one_out_advantages(scores, 2).baselines.tolist() == [3.0, 1.0]
    assert group_normalised_advantages(scores, 2).baselines.tolist() == [2.0, 2.0]


@given(
    returns=arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(2, 5)), elements=st.floats(-5, 5, width=32)),
    offset=st.floats(-3, 3, width=32),
)
def test_group_advantages_sum_to_zero_and_know_no_offset(returns: np.ndarray, offset: float) -> None:
    """For every group, of either kind; what all completions of a prompt gain, none of them has gained."""
    group = returns.shape[1]
    flat = torch.from_numpy(returns.ravel())
    for advantages_of in (leave_one_out_advantages, group_normalised_advantages):
        found = advantages_of(flat, group).advantages
        assert found.view(-1, group).sum(1).abs().max() < 1e-2
    loo = leave_one_out_advantages(flat, group).advantages
    torch.testing.assert_close(leave_one_out_advantages(flat + offset, group).advantages, loo, atol=1e-4, rtol=1e-4)
    naive = [returns[row, i] - np.delete(returns[row], i).mean() for row in range(len(returns)) for i in range(group)]
    torch.testing.assert_close(loo, torch.tensor(np.array(naive, np.float32)), atol=1e-4, rtol=1e-4)
