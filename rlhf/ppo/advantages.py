"""Advantages: what tells PPO, REINFORCE, RLOO and GRPO apart; rlhf/algorithms.py says which has which.

With a critic they are estimated for every token. Without one they stand for whole completions: a completion's score
and its KL, each held against those of other completions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


class Compared(NamedTuple):
    """Completions held against others.

    Attributes:
        advantages: one per completion.
        baselines: what its return was held against.
    """

    advantages: Float[Tensor, " B"]
    baselines: Float[Tensor, " B"]


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


def log_derivative_coefficients(
    scores: Float[Tensor, " B"], log_ratios: Float[Tensor, " B"], kl_coefficient: float
) -> Float[Tensor, " B"]:
    """What each sample's ∇log π is multiplied by in the gradient of E[R] − β·KL(π ‖ π_ref).

    ∇ Σ_y π(y)·(R(y) − β·log(π(y)/π_ref(y))) = E[∇log π(y) · (R(y) − β·(1 + log π(y) − log π_ref(y)))]; the 1 comes
    of differentiating log π itself, and is a baseline like any constant.
    Source: Williams (1992), with the product rule for the KL term.

    Args:
        scores: R, one per completion.
        log_ratios: log π − log π_ref, summed over the completion's tokens.
        kl_coefficient: β.
    """
    return scores - kl_coefficient * (1.0 + log_ratios)


def leave_one_out_advantages(returns: Float[Tensor, " B"], group: int) -> Compared:
    """Each completion's return less the mean of the others in its group: G_i − (1/(K−1))·Σ_{j≠i} G_j.

    A baseline that does not contain the sample itself leaves the gradient unbiased. With a prompt's K completions
    as the group this is RLOO (Kool et al. 2019, equation 8; Ahmadian et al. 2024, equation 7); with the whole batch
    it is REINFORCE with a mean baseline. Equal returns give exactly 0.

    Args:
        returns: G, or any of its terms, the completions of a group side by side.
        group: K; divides B. A group of one has nothing to compare with and keeps its return.
    """
    if group == 1:
        return Compared(returns, torch.zeros_like(returns))
    centred = _from_the_first(returns, group)
    advantages = centred - (centred.sum(1, keepdim=True) - centred) / (group - 1)
    return _compare(returns, advantages)


def group_normalised_advantages(scores: Float[Tensor, " B"], group: int) -> Compared:
    """(R_i − mean of the group) / (deviation of the group + 1e-4). Equal scores give exactly 0.

    Source: Shao et al. (2024), section 4.1.2 (GRPO). Of the scores alone, as there: were the KL in it, a prompt whose
    completions score alike would make full advantages of the noise in their KL.

    Args:
        scores: R, the completions of a group side by side.
        group: K; divides B.
    """
    centred = _from_the_first(scores, group)
    from_mean = centred - centred.mean(1, keepdim=True)
    deviation = from_mean.square().mean(1, keepdim=True).sqrt()
    return _compare(scores, from_mean / (deviation + 1e-4), from_mean)


def _from_the_first(figures: Float[Tensor, " B"], group: int) -> Tensor:
    """B/K × K differences from each group's first, in float64: of equal figures exactly 0, as a mean's may not be."""
    grouped = figures.view(-1, group).double()
    return grouped - grouped[:, :1]


def _compare(figures: Tensor, advantages: Tensor, differences: Tensor | None = None) -> Compared:
    """Advantages in the figures' own precision, with what those were held against."""
    differences = advantages if differences is None else differences
    return Compared(advantages.flatten().to(figures.dtype), figures - differences.flatten().to(figures.dtype))


OF_COMPLETIONS: Mapping[str, Callable[[Float[Tensor, " B"], int], Compared]] = {
    "leave_one_out": leave_one_out_advantages,
    "group_normalised": group_normalised_advantages,
}
"""What algorithms make of scores, by the names that rlhf/algorithms.py calls it."""
