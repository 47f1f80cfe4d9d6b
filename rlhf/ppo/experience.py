"""Experience: completions sampled from the policy, scored, and weighed by the advantages of the algorithm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlhf.algorithms import ALGORITHMS
from rlhf.batches import Batch
from rlhf.logprobs import kl_estimate
from rlhf.masking import explained_variance, masked_mean, masked_variance, whiten, whitening_scale
from rlhf.policy.rollouts import Networks, Scorer, roll_out
from rlhf.ppo.advantages import (
    OF_COMPLETIONS,
    generalized_advantages,
    leave_one_out_advantages,
    log_derivative_coefficients,
)
from rlhf.ppo.rewards import token_rewards
from rlhf.records import PromptText
from rlhf.settings.policy import PolicySettings


class Experience(NamedTuple):
    """What one iteration sampled, and what the networks said of it then.

    Attributes:
        batch: prompts and completions.
        logprobs: log π_old of each response token.
        ref_logprobs: log π_ref of each.
        values: what advantages are measured against: V_old of the critic, or the baseline.
        advantages: whitened where the algorithm says so.
        returns: the critic's target.
        kl_weights: what a nat of each token costs in the loss, in units of the advantages; 0 where the reward pays it.
    """

    batch: Batch
    logprobs: Float[Tensor, "B T"]
    ref_logprobs: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"]
    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]
    kl_weights: Float[Tensor, "B T"]

    def rows(self, index: Tensor) -> Experience:
        """Some of the rows."""
        return Experience(Batch(*(tensor[index] for tensor in self.batch)), *(tensor[index] for tensor in self[1:]))

    def tokens(self, index: Tensor) -> Experience:
        """The figures of some tokens of the flattened batch, one after the other, beside the batch as it is."""
        return Experience(self.batch, *(tensor.flatten()[index] for tensor in self[1:]))


@torch.no_grad()
def sample_experience(
    networks: Networks,
    scorer: Scorer,
    prompts: Sequence[PromptText],
    settings: PolicySettings,
    kl_coefficient: float,
    generator: torch.Generator,
) -> tuple[Experience, dict[str, float]]:
    """Samples completions for each prompt, scores them, and estimates advantages; returns its figures beside it."""
    prompts = [prompt for prompt in prompts for _ in range(settings.completions)]
    rollouts = roll_out(networks, scorer, prompts, settings, generator)
    batch, mask = rollouts.batch, rollouts.batch.response_mask
    estimate = estimate_advantages(*rollouts[1:5], mask, settings, kl_coefficient)
    advantages, price = estimate.advantages, estimate.kl_price
    figures = rollouts.figures() | {
        "explained_variance": float(explained_variance(estimate.values, estimate.returns, mask)),
        "advantage_mean": float(masked_mean(advantages, mask)),
        "advantage_std": float(masked_variance(advantages, mask).sqrt()),
    }
    if ALGORITHMS[settings.algorithm].whitens:
        price = price * whitening_scale(advantages, mask)
        advantages = whiten(advantages, mask)
    weights = torch.zeros_like(advantages)
    if settings.kl.in_ == "loss":
        # A token's own KL is the loss's to lower. That of the tokens after it follows from what was drawn: it stays.
        weights = torch.where(mask, price, 0.0)
        advantages = advantages + weights * kl_estimate(rollouts.logprobs, rollouts.ref_logprobs)
    of_networks = rollouts.logprobs, rollouts.ref_logprobs, estimate.values
    return Experience(batch, *of_networks, advantages, estimate.returns, weights), figures


class Estimate(NamedTuple):
    """Advantages and what they came of, at every response token; 0 where padded.

    Attributes:
        advantages: not whitened.
        returns: the critic's target, or the completion's return.
        values: the critic's values, or the completion's baseline.
        kl_price: what a nat costs, in units of the advantages.
    """

    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"]
    kl_price: Float[Tensor, ""]


def estimate_advantages(
    scores: Float[Tensor, " B"],
    logprobs: Float[Tensor, "B T"],
    ref_logprobs: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"] | None,
    response_mask: Bool[Tensor, "B T"],
    settings: PolicySettings,
    kl_coefficient: float,
) -> Estimate:
    """What the algorithm makes of scores and KL.

    Args:
        scores: one per completion, the completions of a prompt side by side.
        logprobs: log π of each response token when it was sampled.
        ref_logprobs: the same under the frozen reference.
        values: the critic's, where the algorithm has one.
        response_mask: True at response tokens.
        settings: algorithm, completions per prompt, discount, λ.
        kl_coefficient: β.
    """
    price = scores.new_tensor(kl_coefficient)
    if values is not None:
        rewards = token_rewards(scores, logprobs, ref_logprobs, response_mask, kl_coefficient)
        if settings.whiten_rewards:
            price = price * whitening_scale(rewards, response_mask)
            rewards = whiten(rewards, response_mask, keep_mean=True)
        gae = generalized_advantages(rewards, values, response_mask, settings.discount, settings.gae_lambda)
        return Estimate(gae.advantages, gae.returns, values, price)
    kl = torch.where(response_mask, kl_estimate(logprobs, ref_logprobs), 0.0).sum(1)
    row = ALGORITHMS[settings.algorithm]
    assert row.advantages is not None
    group = settings.completions if row.group == "prompt" else len(scores)
    of_scores = OF_COMPLETIONS[row.advantages](scores, group)
    # Without the completion itself among those it is held against, so that the gradient is the KL's whole.
    of_kl = leave_one_out_advantages(kl_coefficient * (1.0 + kl), group)
    advantages, baselines = (one - other for one, other in zip(of_scores, of_kl, strict=True))
    returns = log_derivative_coefficients(scores, kl, kl_coefficient)
    # A completion's figure stands at each of its tokens.
    at_tokens = (torch.where(response_mask, each[:, None], 0.0) for each in (advantages, returns, baselines))
    advantages, returns, baselines = at_tokens
    return Estimate(advantages, returns, baselines, price)
