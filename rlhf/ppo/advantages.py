"""Advantages and returns."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Advantages(NamedTuple):
    """What an update learns from; both are 0 where no response token is.

    Attributes:
        advantages: A_t, not whitened.
        returns: A_t + V_t, the critic's target.
    """

    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]


def generalized_advantages(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    discount: float,
    gae_lambda: float,
) -> Advantages:
    """Generalized advantage estimation.

    δ_t = r_t + γ·V_{t+1} − V_t and A_t = δ_t + γλ·A_{t+1}, with V = A = 0 after the last response token.
    Source: Schulman et al. (2016), equations 11–16. A masked step carries the next value and advantage through.

    Args:
        rewards: r_t, one per token.
        values: V_t, the critic's estimate before token t is written.
        response_mask: True at response tokens.
        discount: γ.
        gae_lambda: λ; 0 gives the TD error, 1 the discounted return minus the value.
    """
    next_value = torch.zeros_like(values[:, 0])
    next_advantage = torch.zeros_like(next_value)
    columns: list[Tensor] = []
    for step in reversed(range(values.shape[1])):
        counts = response_mask[:, step]
        delta = rewards[:, step] + discount * next_value - values[:, step]
        advantage = delta + discount * gae_lambda * next_advantage
        columns.append(torch.where(counts, advantage, 0.0))
        next_advantage = torch.where(counts, advantage, next_advantage)
        next_value = torch.where(counts, values[:, step], next_value)
    advantages = torch.stack(columns[::-1], dim=1)
    return Advantages(advantages, torch.where(response_mask, advantages + values, 0.0))
