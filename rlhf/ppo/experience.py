"""Experience: completions sampled from the policy, scored, and weighed by the advantages of the algorithm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlhf.adapters import without_adapter
from rlhf.algorithms import ALGORITHMS
from rlhf.batches import Batch, make_batch, response_states
from rlhf.drawing.samples import Samples
from rlhf.generation import sample
from rlhf.heads import response_logprobs
from rlhf.logprobs import kl_estimate
from rlhf.masking import explained_variance, masked_mean, masked_variance, whiten
from rlhf.models import Policy, computes_in_float32
from rlhf.ppo.advantages import OF_COMPLETIONS, generalized_advantages, log_derivative_coefficients
from rlhf.ppo.critic import Critic
from rlhf.ppo.rewards import final_scores, length_penalty, token_rewards
from rlhf.records import PromptText, Sampling
from rlhf.settings.policy import PolicySettings


@runtime_checkable
class Scorer(Protocol):
    """Whatever gives one normalised score per completion; PPO hands it text, so tokenizers may differ."""

    def score(
        self, prompts: Sequence[PromptText], completions: Sequence[str], batch_size: int = 64
    ) -> Float[Tensor, " B"]: ...


class Experience(NamedTuple):
    """What one iteration sampled, and what the networks said of it then.

    Attributes:
        batch: prompts and completions.
        logprobs: log π_old of each response token.
        values: what advantages are measured against: V_old of the critic, or the baseline.
        advantages: whitened where the algorithm says so.
        returns: the critic's target.
    """

    batch: Batch
    logprobs: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"]
    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]

    def rows(self, index: Tensor) -> Experience:
        """Some of the rows."""
        return Experience(Batch(*(tensor[index] for tensor in self.batch)), *(tensor[index] for tensor in self[1:]))

    def tokens(self, index: Tensor) -> Experience:
        """The figures of some tokens of the flattened batch, one after the other, beside the batch as it is."""
        return Experience(self.batch, *(tensor.flatten()[index] for tensor in self[1:]))


@dataclass(frozen=True)
class Networks:
    """Policy, reference and critic, and what they say of a batch, in micro-batches.

    Attributes:
        policy: what is trained.
        reference: the frozen start; None when it is the policy itself with its adapter off.
        critic: what advantages are estimated with; None where the algorithm has none.
    """

    policy: Policy
    reference: Policy | None
    critic: Critic | None
    settings: PolicySettings

    def logprobs(self, batch: Batch) -> Float[Tensor, "B T"]:
        """log π of each response token, 0 where padded."""
        return self._logprobs(self.policy.model, batch)

    def ref_logprobs(self, batch: Batch) -> Float[Tensor, "B T"]:
        """log π_ref of each response token, 0 where padded."""
        if self.reference is not None:
            return self._logprobs(self.reference.model, batch)
        with without_adapter(self.policy):
            return self._logprobs(self.policy.model, batch)

    @torch.no_grad()
    def log_ratio(self, batch: Batch) -> Float[Tensor, "B T"]:
        """log π − log π_ref of each response token, 0 where padded."""
        return self.logprobs(batch) - self.ref_logprobs(batch)

    def logprobs_and_values(self, batch: Batch) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"] | None]:
        """`logprobs`, and off the same states the values of a critic that reads them; None of any other."""
        critic, model = self.critic, self.policy.model
        if critic is None or critic.backbone is not None:
            return self.logprobs(batch), None
        logprobs, values = [], []
        for part in self._parts(batch):
            states = response_states(model, part)
            logprobs.append(response_logprobs(model, part, self.settings.temperature, states))
            values.append(critic(part, states))
        return torch.cat(logprobs), torch.cat(values)

    def values(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The critic's V_t, 0 where padded."""
        assert self.critic is not None
        if self.critic.backbone is not None:
            return torch.cat([self.critic(part) for part in self._parts(batch)])
        model = self.policy.model
        return torch.cat([self.critic(part, response_states(model, part)) for part in self._parts(batch)])

    def _logprobs(self, model: nn.Module, batch: Batch) -> Float[Tensor, "B T"]:
        return torch.cat([response_logprobs(model, part, self.settings.temperature) for part in self._parts(batch)])

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        size = self.settings.micro_batch_size or len(batch.input_ids)
        for start in range(0, len(batch.input_ids), size):
            yield Batch(*(tensor[start : start + size] for tensor in batch))


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
    policy = networks.policy
    prompts = [prompt for prompt in prompts for _ in range(settings.completions)]
    encoded = policy.encode_prompts(prompts)
    seeds = torch.randint(2**62, (len(prompts),), generator=generator).tolist()
    sampling = Sampling(temperature=settings.temperature, max_new_tokens=settings.max_new_tokens)
    critic = networks.critic
    # A head on the policy's own states reads along, where they are what a forward over the whole would have.
    value = critic.read if critic is not None and critic.backbone is None else None
    samples = sample(policy, encoded, [sampling] * len(prompts), seeds, value)
    responses = samples.responses()
    batch = make_batch(encoded, responses, policy.device)
    raw = scorer.score(prompts, [policy.decode(response) for response in responses]).to(policy.device)
    scores = final_scores(raw, samples.finished, settings.unfinished_score, settings.unfinished == "replace")
    scores = scores - length_penalty(samples.lengths, settings.length_penalty, settings.length_free)
    # In half precision a step of the sampler and a forward over the whole round differently, by more than PPO bears.
    kept = computes_in_float32(policy.model)
    logprobs, values = (samples.logprobs, samples.values) if kept else networks.logprobs_and_values(batch)
    ref_logprobs = networks.ref_logprobs(batch)
    if values is None and critic is not None:
        values = networks.values(batch)
    estimate = estimate_advantages(
        scores, logprobs, ref_logprobs, values, batch.response_mask, settings, kl_coefficient
    )
    figures = _figures(samples, scores, logprobs - ref_logprobs, estimate, batch.response_mask)
    advantages = estimate.advantages
    if ALGORITHMS[settings.algorithm].whitens:
        advantages = whiten(advantages, batch.response_mask)
    return Experience(batch, logprobs, estimate.values, advantages, estimate.returns), figures


class Estimate(NamedTuple):
    """Advantages and what they came of, at every response token; 0 where padded.

    Attributes:
        advantages: not whitened.
        returns: the critic's target, or the completion's return.
        values: the critic's values, or the completion's baseline.
    """

    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"]


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
        settings: algorithm, completions per prompt, discount, λ, the KL's estimator.
        kl_coefficient: β.
    """
    estimator = settings.kl.estimator
    if values is not None:
        rewards = token_rewards(scores, logprobs, ref_logprobs, response_mask, kl_coefficient, estimator)
        if settings.whiten_rewards:
            rewards = whiten(rewards, response_mask, keep_mean=True)
        gae = generalized_advantages(rewards, values, response_mask, settings.discount, settings.gae_lambda)
        return Estimate(gae.advantages, gae.returns, values)
    kl = torch.where(response_mask, kl_estimate(logprobs, ref_logprobs, estimator), 0.0).sum(1)
    returns = log_derivative_coefficients(scores, kl, kl_coefficient)
    row = ALGORITHMS[settings.algorithm]
    group = settings.completions if row.group == "prompt" else len(returns)
    advantages, baselines = OF_COMPLETIONS[row.advantages](returns, group)
    # A completion's figure stands at each of its tokens.
    return Estimate(*(torch.where(response_mask, row[:, None], 0.0) for row in (advantages, returns, baselines)))


def _figures(
    samples: Samples,
    scores: Float[Tensor, " B"],
    log_ratio: Float[Tensor, "B T"],
    estimate: Estimate,
    mask: Bool[Tensor, "B T"],
) -> dict[str, float]:
    return {
        "reward_mean": float(scores.mean()),
        "reward_std": float(scores.std(correction=0)),
        "kl": float(torch.where(mask, log_ratio, 0.0).sum(1).mean()),
        "response_tokens": float(samples.lengths.float().mean()),
        "finished_share": float(samples.finished.float().mean()),
        "explained_variance": float(explained_variance(estimate.values, estimate.returns, mask)),
        "advantage_mean": float(masked_mean(estimate.advantages, mask)),
        "advantage_std": float(masked_variance(estimate.advantages, mask).sqrt()),
    }
