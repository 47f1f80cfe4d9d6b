"""PPO's losses: golden numbers for each branch of each clip, and the gradients that the clips let through."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf.ppo.losses import policy_losses, probability_ratio, value_losses


def test_the_ratio_is_new_over_old_and_clamped_in_the_logarithm() -> None:
    """exp(-1 - (-2)) = e; ± 500 nats become e^±20."""
    ratio = probability_ratio(torch.tensor([[-1.0, 0.0, -500.0]]), torch.tensor([[-2.0, -500.0, 0.0]]))
    assert ratio[0].tolist() == pytest.approx([math.e, math.exp(20), math.exp(-20)])


def test_at_ratio_one_the_loss_is_minus_the_mean_advantage() -> None:
    """No clip acts there, and the gradient in the logprob is -A: the policy gradient."""
    advantages = torch.tensor([[1.5, -0.5, 2.0]])
    logprobs = torch.zeros(1, 3, requires_grad=True)
    losses = policy_losses(probability_ratio(logprobs, torch.zeros(1, 3)), advantages, clip=0.2, dual_clip=3.0)
    assert losses.mean().item() == pytest.approx(-1.0)
    losses.sum().backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, -advantages)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 2.0, -2.4, 0.0),  # good and already likelier: no more than 1.2 counts
        (0.5, 2.0, -1.0, -2.0),  # good and less likely: pulled back up
        (0.5, -2.0, 1.6, 0.0),  # bad and already rarer: no less than .8 counts
        (1.5, -2.0, 3.0, 2.0),  # bad and likelier: pushed down in full
        (1.1, 2.0, -2.2, -2.0),  # within the clip on either side
        (0.9, -2.0, 1.8, 2.0),
    ],
)
def test_the_clip_on_either_side(ratio: float, advantage: float, loss: float, slope: float) -> None:
    """max(-A·ρ, -A·clip(ρ, .8, 1.2)) and its derivative in ρ."""
    ratios = torch.tensor([[ratio]], requires_grad=True)
    losses = policy_losses(ratios, torch.tensor([[advantage]]), clip=0.2)
    assert losses.item() == pytest.approx(loss)
    losses.sum().backward()
    assert ratios.grad is not None
    assert ratios.grad.item() == pytest.approx(slope)


def test_the_dual_clip_bounds_a_huge_ratio_of_a_bad_token_alone() -> None:
    """With c = 3 and A = -2: 2·10 becomes 6, 2·2 = 4 stays; with A = 2 and ρ = .01 nothing changes."""
    ratio = torch.tensor([[10.0, 2.0, 0.01]])
    advantages = torch.tensor([[-2.0, -2.0, 2.0]])
    assert policy_losses(ratio, advantages, 0.2)[0].tolist() == pytest.approx([20.0, 4.0, -0.02])
    assert policy_losses(ratio, advantages, 0.2, dual_clip=3.0)[0].tolist() == pytest.approx([6.0, 4.0, -0.02])


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "slope"),
    [
        (1.1, 1.0, 2.0, 0.405, -0.9),  # within the clip: ½·.9²
        (1.5, 1.0, 2.0, 0.32, 0.0),  # moved .5 towards the return: held at 1.2, ½·.8², no gradient
        (0.5, 1.0, 2.0, 1.125, -1.5),  # moved away: the larger error counts, ½·1.5², full gradient
        (1.5, 1.0, 0.0, 1.125, 1.5),  # moved away upwards
        (0.5, 1.0, 0.0, 0.32, 0.0),  # moved towards it downwards: held at .8
    ],
)
def test_the_value_loss_is_the_larger_of_plain_and_clipped(
    value: float, old: float, target: float, loss: float, slope: float
) -> None:
    """½·max((V - R)², (clip(V, V_old ± .2) - R)²) and its derivative in V."""
    values = torch.tensor([[value]], requires_grad=True)
    losses = value_losses(values, torch.tensor([[old]]), torch.tensor([[target]]), clip=0.2)
    assert losses.item() == pytest.approx(loss)
    losses.sum().backward()
    assert values.grad is not None
    assert values.grad.item() == pytest.approx(slope, abs=1e-6)


def test_the_losses_pass_gradcheck_away_from_the_clips() -> None:
    """Analytic and numerical derivatives agree in double precision."""
    draw = torch.Generator().manual_seed(0)
    advantages = torch.randn(2, 3, generator=draw, dtype=torch.float64)
    ratio = (0.85 + 0.3 * torch.rand(2, 3, generator=draw, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: policy_losses(x, advantages, 0.2, 3.0), (ratio,))
    values = torch.randn(2, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    old, returns = torch.zeros(2, 3, dtype=torch.float64), torch.full((2, 3), 5.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: value_losses(x, old, returns, 0.2), (values,))
