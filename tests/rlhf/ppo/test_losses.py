"""PPO's losses: golden numbers for each branch of each clip, their sum, and the gradients let through."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf.batches import make_batch
from rlhf.ppo.experience import Experience
from rlhf.ppo.losses import kl_losses, policy_losses, ppo_loss, probability_ratio, value_losses
from rlhf.settings.policy import KlSettings, PolicySettings


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


def two_tokens() -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], Experience, PolicySettings]:
    """Logprobs, entropy and values of two tokens, what was sampled of them, and ε = ε_v = .2, c₁ = .5, c₂ = .1."""
    now = torch.tensor([[math.log(1.5), math.log(1.1)]]), torch.tensor([[0.7, 0.3]]), torch.tensor([[1.5, 0.5]])
    sampled = torch.ones(1, 2), torch.tensor([[2.0, -2.0]]), torch.full((1, 2), 2.0)
    (logprobs, values), kl_weights = torch.zeros(2, 1, 2), torch.tensor([[0.0, 3.0]])
    settings = PolicySettings(
        iterations=1, prompts_per_iteration=1, value_coefficient=0.5, entropy_coefficient=0.1, clip=0.2, value_clip=0.2
    )
    return now, Experience(make_batch([[3]], [[4, 5]]), logprobs, values, *sampled, kl_weights), settings


def test_the_loss_is_equation_9_by_hand() -> None:
    """A good token past the clip, −2.4 + .5·.32 − .1·.7 = −2.31; a bad one within, 2.2 + .5·1.125 − .1·.3 = 2.7325."""
    now, experience, settings = two_tokens()
    losses, figures = ppo_loss(*now, experience, settings)
    assert losses[0].tolist() == pytest.approx([-2.31, 2.7325])
    expected = {
        "policy_loss": [-2.4, 2.2],
        "value_loss": [0.32, 1.125],
        "entropy": [0.7, 0.3],
        "ratio": [1.5, 1.1],
        "clip_fraction": [1.0, 0.0],
        "approx_kl_k1": [-math.log(1.5), -math.log(1.1)],
        "approx_kl_k2": [math.log(1.5) ** 2 / 2, math.log(1.1) ** 2 / 2],
        "approx_kl_k3": [0.5 - math.log(1.5), 0.1 - math.log(1.1)],
    }
    assert figures.keys() == expected.keys()
    for name, values in expected.items():
        assert figures[name][0].tolist() == pytest.approx(values), name


def test_its_gradient_is_what_the_clips_let_through() -> None:
    """−A·ρ within the clip and 0 past it; −c₂ in the entropy; c₁·(V − R) where the plain error counts, else 0.

    The figures carry no graph.
    """
    now, experience, settings = two_tokens()
    leaves = logprobs, entropy, values = [tensor.requires_grad_() for tensor in now]
    losses, figures = ppo_loss(logprobs, entropy, values, experience, settings)
    losses.sum().backward()
    expected = [[0.0, 2.2], [-0.1, -0.1], [0.0, 0.5 * (0.5 - 2.0)]]
    for leaf, slopes in zip(leaves, expected, strict=True):
        assert leaf.grad is not None
        assert leaf.grad[0].tolist() == pytest.approx(slopes)
    assert not any(figure.requires_grad for figure in figures.values())


def test_the_terms_of_policy_and_critic_add_up() -> None:
    """Asked for one by one, as two networks are, they are the loss and its figures."""
    (logprobs, entropy, values), experience, settings = two_tokens()
    whole = ppo_loss(logprobs, entropy, values, experience, settings)
    policy = ppo_loss(logprobs, entropy, None, experience, settings)
    critic = ppo_loss(None, None, values, experience, settings)
    torch.testing.assert_close(policy.losses + critic.losses, whole.losses)
    assert {**policy.figures, **critic.figures}.keys() == whole.figures.keys()
    assert critic.figures.keys() == {"value_loss"}


def test_the_kl_joins_the_loss_where_settings_say_so() -> None:
    """With d = log ρ the second token adds 3·1.1·d²/2 by k2 and 3·1.1·(1/1.1 − 1 + d) by k3, the first none."""
    now, experience, settings = two_tokens()
    plain = ppo_loss(*now, experience, settings).losses
    d = math.log(1.1)
    for estimator, kl in (("k2", 1.1 * d * d / 2), ("k3", 1.1 * (1 / 1.1 - 1 + d))):
        chosen = settings.model_copy(update={"kl": KlSettings.model_validate({"in": "loss", "estimator": estimator})})
        losses, figures = ppo_loss(*now, experience, chosen)
        assert (losses - plain)[0].tolist() == pytest.approx([0.0, 3 * kl], abs=1e-6)
        assert figures[f"kl_{estimator}"][0, 1].item() == pytest.approx(kl, abs=1e-6)


def three_policies(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of a policy over six words, and the logprobs of the one that sampled and of the reference."""
    ours, old, reference = torch.randn(3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return ours.requires_grad_(), old.log_softmax(0), reference.log_softmax(0)


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_kl_losses_have_the_gradient_of_the_kl(estimator: str, on_policy: bool) -> None:
    """Over every word, weighed by the policy that sampled: ∇KL(π ‖ π_ref), also where that is another than π."""
    logits, old, reference = three_policies(3)
    logprobs = logits.log_softmax(0)
    old = logprobs.detach() if on_policy else old
    exact = gradient((logprobs.exp() * (logprobs - reference)).sum(), logits)
    ours = gradient((old.exp() * kl_losses(logprobs, old, reference, estimator)).sum(), logits)
    torch.testing.assert_close(ours, exact, atol=1e-12, rtol=0)
    assert exact.norm() > 0.1


def test_what_other_losses_of_the_kl_would_teach() -> None:
    """k1 nothing; k3 without the ratio the forward KL(π_ref ‖ π); k2 with its gradient that of E[d²/2]."""
    logits, _, reference = three_policies(4)
    logprobs = logits.log_softmax(0)
    weights, d = logprobs.exp().detach(), logprobs - reference
    ratio = (logprobs - logprobs.detach()).exp()
    exact, forward, of_square = (
        gradient(figure.sum(), logits)
        for figure in (logprobs.exp() * d, reference.exp() * (reference - logprobs), logprobs.exp() * d.square() / 2)
    )
    for loss, taught in (
        (d, torch.zeros(6, dtype=torch.float64)),
        (torch.expm1(-d) + d, forward),
        (ratio * d.square() / 2, of_square),
        (ratio * d, exact),
    ):
        torch.testing.assert_close(gradient((weights * loss).sum(), logits), taught, atol=1e-12, rtol=0)
    assert min((exact - other).norm() for other in (forward, of_square)) > 0.1


def test_the_value_of_k3_is_the_kl_and_never_negative() -> None:
    """Weighed by the policy that sampled its sum is KL(π ‖ π_ref); k2's is near it where π is near the reference."""
    logits, old, reference = three_policies(5)
    logprobs = logits.log_softmax(0)
    losses = kl_losses(logprobs, old, reference, "k3")
    assert losses.min() >= 0.0
    assert (old.exp() * losses).sum().item() == pytest.approx((logprobs.exp() * (logprobs - reference)).sum().item())
    near = (0.1 * logits).log_softmax(0)
    ours, theirs = ((near.exp() * kl_losses(near, near, near * 1.1, name)).sum().item() for name in ("k2", "k3"))
    assert ours == pytest.approx(theirs, rel=0.1)


def test_far_from_the_reference_the_kls_gradient_stays_what_it_is() -> None:
    """In float32, π at e⁻¹⁸ of π_ref: ρ·d, where 1 − e^{−d} loses every digit; ρ is what clamps."""
    for estimator in ("k2", "k3"):
        logprobs = torch.tensor([-19.0, -0.5], requires_grad=True)
        kl_losses(logprobs, torch.tensor([-19.0, -0.6]), torch.tensor([-1.0, -40.0]), estimator).sum().backward()
        assert logprobs.grad is not None
        assert logprobs.grad.tolist() == pytest.approx([-18.0, 39.5 * math.exp(0.1)], rel=1e-4)


def test_the_loss_of_another_estimator_is_refused() -> None:
    """k1's gradient teaches nothing; the error says which do."""
    with pytest.raises(ValueError, match=r"'k1'; as a loss k2 and k3 have the KL's gradient"):
        kl_losses(torch.zeros(1), torch.zeros(1), torch.zeros(1), "k1")
