"""The loss on pairs, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.reward.losses import centring_loss, pairwise_loss, regression_loss


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


def test_a_margin_is_asked_for_on_top() -> None:
    """Differences log 3 and 0 with margins log 3 and log 4: σ(0) = ½ and σ(-log 4) = ⅕, so (log 2 + log 5)/2."""
    chosen, rejected = torch.tensor([math.log(3), 2.0]), torch.tensor([0.0, 2.0])
    margins = torch.tensor([math.log(3), math.log(4)])
    assert pairwise_loss(chosen, rejected, margins).item() == pytest.approx(math.log(10) / 2)


def test_smoothed_labels_by_hand() -> None:
    """Difference log 3 and ε = .1: .9·log 4/3 + .1·log 4; with a margin of log 3, .9·log 2 + .1·log 10 (σ(-log 9))."""
    sides = torch.tensor([math.log(3)]), torch.tensor([0.0])
    assert pairwise_loss(*sides, label_smoothing=0.1).item() == pytest.approx(0.9 * math.log(4 / 3) + 0.1 * math.log(4))
    both = pairwise_loss(*sides, margins=math.log(3), label_smoothing=0.1)
    assert both.item() == pytest.approx(0.9 * math.log(2) + 0.1 * math.log(10))


def test_smoothed_labels_are_believed_up_to_their_share() -> None:
    """With ε = .1 the loss is least where σ(Δ) = .9, at a difference of log 9, and never falls to 0."""
    difference = torch.tensor([math.log(9)], requires_grad=True)
    loss = pairwise_loss(difference, torch.zeros(1), label_smoothing=0.1)
    loss.backward()
    assert difference.grad is not None
    assert difference.grad.item() == pytest.approx(0.0, abs=1e-6)
    assert loss.item() == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1))


@settings(deadline=None)
@given(
    sides=st.lists(st.tuples(*[st.floats(-20, 20)] * 2), min_size=1, max_size=6),
    margin=st.floats(0, 5),
    smoothing=st.floats(0, 0.49),
)
def test_the_loss_is_that_of_a_loop_over_pairs(
    sides: list[tuple[float, float]], margin: float, smoothing: float
) -> None:
    """For any scores, margin and smoothing; without the two, the plain loss. Swapped sides swap 1 - ε and ε."""
    chosen, rejected = torch.tensor(sides, dtype=torch.float64).T

    def cost(difference: float) -> float:
        return math.log1p(math.exp(margin - difference))

    expected = [(1 - smoothing) * cost(one - other) + smoothing * cost(other - one) for one, other in sides]
    loss = pairwise_loss(chosen, rejected, margin, smoothing)
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-6, abs=1e-9)
    assert pairwise_loss(rejected, chosen, margin, 1 - smoothing).item() == pytest.approx(loss.item())
    plain = sum(math.log1p(math.exp(other - one)) for one, other in sides) / len(sides)
    assert pairwise_loss(chosen, rejected, 0.0, 0.0).item() == pytest.approx(plain, rel=1e-6, abs=1e-9)


def test_the_regression_loss_by_hand() -> None:
    """Scores 1 and -1 for ratings ½ and 1: (¼ + 4)/2; the gradient, 2(r - z)/2, is ½ and -2."""
    scores = torch.tensor([1.0, -1.0], requires_grad=True)
    loss = regression_loss(scores, torch.tensor([0.5, 1.0]))
    assert loss.item() == pytest.approx(2.125)
    loss.backward()
    assert scores.grad is not None
    assert scores.grad.tolist() == [0.5, -2.0]


def test_gradients_agree_with_finite_differences() -> None:
    """Margins and smoothing together, and regression."""
    draw = torch.Generator().manual_seed(1)
    sides = torch.randn(2, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    margins = torch.rand(4, generator=draw, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: pairwise_loss(x[0], x[1], margins, 0.2), (sides,))
    assert torch.autograd.gradcheck(lambda x: regression_loss(x[0], x[1]), (sides,))


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
