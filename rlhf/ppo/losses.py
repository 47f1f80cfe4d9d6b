"""PPO's losses per token; who calls them sums over the mask and divides by the tokens of the whole step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.logprobs import MAX_LOG_RATIO, kl_estimate
from rlhf.ppo.experience import Experience
from rlhf.settings.policy import PolicySettings


class PpoLoss(NamedTuple):
    """Equation 9 at each token.

    Attributes:
        losses: L_clip + c₁·L_vf − c₂·S, and β·KL where the loss has it, to be minimised.
        figures: its parts and what tells how far the policy has moved, without a graph.
    """

    losses: Float[Tensor, "*shape"]
    figures: dict[str, Float[Tensor, "*shape"]]


def ppo_loss(
    logprobs: Float[Tensor, "*shape"] | None,
    entropy: Float[Tensor, "*shape"] | None,
    values: Float[Tensor, "*shape"] | None,
    experience: Experience,
    settings: PolicySettings,
) -> PpoLoss:
    """L_clip + c₁·L_vf − c₂·S at each token, and β·KL where `kl.in` is loss.

    Source: Schulman et al. (2017), equation 9, with the signs of a loss. Policy and critic share terms in nothing but
    the sum: where they are networks of their own, each may be asked for by itself.

    Args:
        logprobs: log π of the tokens; None leaves out the policy's terms.
        entropy: S, of the distributions that they were drawn from; with the logprobs.
        values: V, the critic's; None leaves out its term.
        experience: what was sampled, at the same tokens.
        settings: ε, ε_v, c₁, c₂, the dual clip, and the KL's estimator.
    """
    losses = torch.zeros_like(experience.logprobs)
    figures: dict[str, Tensor] = {}
    if logprobs is not None and entropy is not None:
        ratio = probability_ratio(logprobs, experience.logprobs)
        clipped = policy_losses(ratio, experience.advantages, settings.clip, settings.dual_clip)
        losses = clipped - settings.entropy_coefficient * entropy if settings.entropy_coefficient > 0 else clipped
        figures |= {
            "policy_loss": clipped,
            "entropy": entropy,
            "ratio": ratio,
            "clip_fraction": ((ratio - 1.0).abs() > settings.clip).float(),
            **{f"approx_kl_{name}": kl_estimate(experience.logprobs, logprobs, name) for name in ("k1", "k2", "k3")},
        }
        if settings.kl.in_ == "loss":
            name, sampled = settings.kl.estimator, (experience.logprobs, experience.ref_logprobs)
            figures[f"kl_{name}"] = kl_losses(logprobs, *sampled, name)
            losses = losses + experience.kl_weights * figures[f"kl_{name}"]
    if values is not None:
        figures["value_loss"] = value_losses(values, experience.values, experience.returns, settings.value_clip)
        losses = losses + settings.value_coefficient * figures["value_loss"]
    return PpoLoss(losses, {name: figure.detach() for name, figure in figures.items()})


def probability_ratio(
    logprobs: Float[Tensor, "*shape"], old_logprobs: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """ρ = π / π_old of each token, with log ρ clamped to ±20."""
    return (logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def policy_losses(
    ratio: Float[Tensor, "*shape"],
    advantages: Float[Tensor, "*shape"],
    clip: float,
    dual_clip: float | None = None,
) -> Float[Tensor, "*shape"]:
    """The clipped surrogate, to be minimised: max(−A·ρ, −A·clip(ρ, 1−ε, 1+ε)).

    Source: Schulman et al. (2017), equation 7. With `dual_clip` c > 1 the loss of a negative advantage is at most
    −c·A (Ye et al. 2020, equation 5), so that one token with a huge ratio cannot dominate.
    """
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1.0 - clip, 1.0 + clip))
    if dual_clip is None:
        return losses
    return torch.where(advantages < 0, torch.minimum(losses, -dual_clip * advantages), losses)


def kl_losses(
    logprobs: Float[Tensor, "*shape"],
    old_logprobs: Float[Tensor, "*shape"],
    ref_logprobs: Float[Tensor, "*shape"],
    estimator: str,
) -> Float[Tensor, "*shape"]:
    """KL(π ‖ π_ref) at tokens sampled from π_old, as a loss: the expectation of its gradient is the KL's own.

    With d = log π − log π_ref and ρ = π/π_old: k2 is ρ·d²/2, where ρ is a mere weight; k3 is ρ·(e^{−d} − 1 + d), where
    it has its gradient. Either way a token's gradient is ρ·d·∇log π, and E_old[ρ·d·∇log π] = ∇KL(π ‖ π_ref), however
    far π is from π_old. k3's value is unbiased, k2's is the nearer to it the smaller d is.

    What else one might write has another gradient: k1 by itself has that of nothing, E[∇log π] = 0; k1 with ρ the right
    one with the noise of a constant, ρ·(d + 1)·∇log π; k3 without ρ that of the forward KL(π_ref ‖ π); k2 with the
    gradient of ρ that of E[d²/2].
    Source: Schulman, "Approximating KL divergence" (2020); Liu et al. (2025), "Rethinking KL regularization in RLHF".

    Args:
        logprobs: log π of the tokens.
        old_logprobs: log π_old, when they were sampled.
        ref_logprobs: under the frozen reference.
        estimator: k2 or k3.

    Raises:
        ValueError: the estimator is no such loss.
    """
    ratio, log_ratio = probability_ratio(logprobs, old_logprobs), logprobs - ref_logprobs
    if estimator == "k2":
        return ratio.detach() * log_ratio.square() / 2
    if estimator == "k3":
        # ρ·e^{−d} = π_ref / π_old has no gradient. Written so, no large numbers cancel where π is far below π_ref.
        constant = torch.expm1((ref_logprobs - old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO))
        return constant - (ratio - 1.0) + ratio * log_ratio
    raise ValueError(f"found KL estimator {estimator!r}; as a loss k2 and k3 have the KL's gradient")


def value_losses(
    values: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    clip: float,
) -> Float[Tensor, "B T"]:
    """½·max((V − R)², (V_clipped − R)²) with V_clipped = clip(V, V_old ± ε_v).

    Source: the value clipping of the PPO reference code, as Huang et al. (2024) describe it.
    """
    clipped = torch.clamp(values, old_values - clip, old_values + clip)
    return 0.5 * torch.maximum((values - returns).square(), (clipped - returns).square())
