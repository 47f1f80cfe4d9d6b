"""PPO's losses per token; who calls them sums over the mask and divides by the tokens of the whole step."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.logprobs import MAX_LOG_RATIO


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
