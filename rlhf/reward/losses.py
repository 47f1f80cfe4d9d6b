"""Losses of reward models on pairs; scores in, a scalar out."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def pairwise_loss(
    chosen: Float[Tensor, " N"],
    rejected: Float[Tensor, " N"],
) -> Float[Tensor, ""]:
    """The negative log-likelihood of Bradley and Terry's model: mean of −log σ(r_chosen − r_rejected).

    Source: Bradley and Terry (1952); Ouyang et al. (2022), equation 1.
    """
    return -logsigmoid(chosen - rejected).mean()


def centring_loss(chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Draws the scores of every prompt's completions to 0: mean of (r_chosen + r_rejected)².

    A pairwise loss leaves each prompt an offset of its own; without one, scores of different prompts compare.
    Source: Eisenstein et al. (2023), section 2.
    """
    return (chosen + rejected).square().mean()
