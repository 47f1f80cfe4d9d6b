"""From one score per completion to one reward per token."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlhf.logprobs import kl_estimate


def token_rewards(
    scores: Float[Tensor, " B"],
    logprobs: Float[Tensor, "B T"],
    ref_logprobs: Float[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    kl_coefficient: float,
) -> Float[Tensor, "B T"]:
    """r_t = −β·(log π − log π_ref) at every response token, plus the completion's score at the last one.

    Source: Ziegler et al. (2019), equation 2; the penalty per token as in Stiennon et al. (2020). No other estimate of
    the KL belongs here: E[∇log π·k] is the KL's gradient for k1 alone.

    Args:
        scores: one per completion.
        logprobs: log π of each response token when it was sampled.
        ref_logprobs: the same under the frozen reference.
        response_mask: True at response tokens; each row has at least one, and they come first.
        kl_coefficient: β.
    """
    penalty = kl_coefficient * kl_estimate(logprobs, ref_logprobs)
    rewards = torch.where(response_mask, -penalty, 0.0)
    last = response_mask.sum(1) - 1
    return rewards.scatter_add(1, last[:, None], scores[:, None].to(rewards.dtype))


def final_scores(
    scores: Float[Tensor, " B"], finished: Bool[Tensor, " B"], unfinished_score: float, replace: bool = True
) -> Float[Tensor, " B"]:
    """The reward model's score where EOS was written; a cut completion gets `unfinished_score` instead, or added."""
    return torch.where(finished, scores, unfinished_score if replace else scores + unfinished_score)


def length_penalty(lengths: Int[Tensor, " B"], penalty: float, free: int) -> Float[Tensor, " B"]:
    """What a completion loses for its length: penalty · max(0, length − free), lengths in tokens."""
    return penalty * (lengths - free).clamp(min=0).float()
