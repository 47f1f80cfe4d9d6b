"""The loss on pairs, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf.reward.losses import centring_loss, pairwise_loss


def test_equal_scores_cost_log_two() -> None:
    """Neither side is believed: -log ½, wherever the two scores lie."""
    scores = torch.tensor([-3.0, 0.0, 40.0])
    assert pairwise_loss(scores, scores).item() == pytest.approx(math.log(2))


def test_the_loss_by_hand() -> None:
    """A difference of log 3 has σ = ¾, one of -log 4 has ⅕: the mean of log 4/3 and log 5."""
    chosen, rejected = torch.tensor([math.log(3), 1.0]), torch.tensor([0.0, 1.0 + math.log(4)])
    assert pairwise_loss(chosen, rejected).item() == pytest.approx((math.log(4 / 3) + math.log(5)) / 2)


def test_the_loss_sees_differences_alone_and_is_symmetric() -> None:
    """A shift of all scores changes nothing, and σ(d) + σ(-d) = 1."""
    draw = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 5, generator=draw)
    torch.testing.assert_close(pairwise_loss(chosen + 7, rejected + 7), pairwise_loss(chosen, rejected))
    for one, other in zip(chosen[:, None], rejected[:, None], strict=True):
        both = math.exp(-pairwise_loss(one, other)) + math.exp(-pairwise_loss(other, one))
        assert both == pytest.approx(1.0)


def test_the_gradient_lifts_the_chosen_and_sinks_the_rejected() -> None:
    """-σ(-d)/N and σ(-d)/N: at equal scores ∓½ over two pairs, ∓¼; and gradcheck agrees everywhere."""
    chosen, rejected = (torch.zeros(2, requires_grad=True) for _ in range(2))
    pairwise_loss(chosen, rejected).backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.tolist() == [-0.25, -0.25]
    assert rejected.grad.tolist() == [0.25, 0.25]
    sides = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pairwise_loss(x[0], x[1]), (sides,))


def test_far_apart_scores_stay_finite() -> None:
    """A difference of -1000 costs 1000 nats, one of 1000 nothing."""
    far = torch.tensor([1000.0])
    assert pairwise_loss(-far, torch.zeros(1)).item() == pytest.approx(1000.0)
    assert pairwise_loss(far, torch.zeros(1)).item() == 0.0


def test_the_centring_loss_by_hand() -> None:
    """Pairs (3, -1) and (1, -1): the mean of 2² and 0; its gradient, 2·2/2 and 0, draws both sides the same way."""
    chosen = torch.tensor([3.0, 1.0], requires_grad=True)
    rejected = torch.tensor([-1.0, -1.0], requires_grad=True)
    loss = centring_loss(chosen, rejected)
    assert loss.item() == pytest.approx(2.0)
    loss.backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.tolist() == rejected.grad.tolist() == [2.0, 0.0]
