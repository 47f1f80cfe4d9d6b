"""Losses on pairs, by hand: values, gradients, minima, and what a swapped label does."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf.dpo.losses import preference_losses


def losses(log_ratios: list[float], *given: object) -> list[float]:
    """The loss at each h."""
    return preference_losses(torch.tensor(log_ratios), *given).tolist()  # type: ignore[arg-type]


def test_sigmoid_losses_by_hand() -> None:
    """With β = ½: log(1 + e^{−1}) at h = 2, log 2 where policy and reference agree, log(1 + e²) at h = −4."""
    assert losses([2.0, 0.0, -4.0], 0.5) == pytest.approx([0.3132617, math.log(2.0), 2.1269280], abs=1e-6)


def test_ipo_losses_by_hand() -> None:
    """With β = ½ the margin wanted is 1: (2 − 1)², (0 − 1)², (−1 − 1)²; with β = .1 it is 5."""
    assert losses([2.0, 0.0, -1.0], 0.5, "ipo") == pytest.approx([1.0, 1.0, 4.0])
    assert losses([5.0, 3.0], 0.1, "ipo") == pytest.approx([0.0, 4.0], abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "share", "expected"),
    # .9·log(1 + e^{−1}) + .1·log(1 + e); ¾·(2 − 1)² + ¼·(−2 − 1)²
    [("sigmoid", 0.1, 0.9 * 0.3132617 + 0.1 * 1.3132617), ("ipo", 0.25, 3.0)],
)
def test_a_share_of_swapped_labels_by_hand(loss: str, share: float, expected: float) -> None:
    """At h = 2 and β = ½."""
    assert losses([2.0], 0.5, loss, share) == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_swapping_pair_and_share_changes_nothing(loss: str) -> None:
    """With ε the loss of h is that of −h with 1 − ε; with a half nobody can tell chosen from rejected."""
    log_ratios = torch.linspace(-4, 4, 9)
    for share in (0.0, 0.1, 0.5):
        ours = preference_losses(log_ratios, 0.3, loss, share)
        torch.testing.assert_close(ours, preference_losses(-log_ratios, 0.3, loss, 1.0 - share))


def test_the_gradient_is_that_of_the_paper() -> None:
    """−β·σ(−βh)·(∇log π(y_w) − ∇log π(y_l)): up with the chosen one, down with the other, more where it errs."""
    chosen = torch.tensor([-3.0, -5.0], requires_grad=True)
    rejected = torch.tensor([-4.0, -2.0], requires_grad=True)
    preference_losses(chosen - rejected, 0.5).sum().backward()
    weights = 0.5 * torch.sigmoid(-0.5 * torch.tensor([1.0, -3.0]))
    torch.testing.assert_close(chosen.grad, -weights)
    torch.testing.assert_close(rejected.grad, weights)
    assert weights[1] > weights[0]


@pytest.mark.parametrize(
    ("loss", "share", "least"),
    # 1/(2β); (1 − 2ε)/(2β); log((1 − ε)/ε)/β
    [("ipo", 0.0, 2.0), ("ipo", 0.25, 1.0), ("sigmoid", 0.25, math.log(3.0) / 0.25)],
)
def test_where_the_loss_is_least(loss: str, share: float, least: float) -> None:
    """With β = ¼ the slope is 0 there, falling before and rising after."""
    log_ratios = torch.tensor([least - 0.5, least, least + 0.5], dtype=torch.float64, requires_grad=True)
    preference_losses(log_ratios, 0.25, loss, share).sum().backward()
    assert log_ratios.grad is not None
    before, at, after = log_ratios.grad.tolist()
    assert before < 0 < after
    assert at == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_gradients_agree_with_differences(loss: str) -> None:
    """gradcheck, also far from 0."""
    log_ratios = torch.tensor([-30.0, -1.0, 0.0, 2.0, 30.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h: preference_losses(h, 0.3, loss, 0.1), log_ratios)
