"""Rollouts: completions sampled from the policy, what a scorer makes of them, and the KL to the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlhf.adapters import without_adapter
from rlhf.batches import Batch, make_batch, response_states
from rlhf.finite import NotFiniteError, check_tensors
from rlhf.generation import sample
from rlhf.heads import response_logprobs
from rlhf.memory import MicroBatches
from rlhf.models import Policy, computes_in_float32
from rlhf.ppo.critic import Critic
from rlhf.ppo.rewards import final_scores, length_penalty
from rlhf.records import PromptText, Sampling, prompt_text
from rlhf.settings.policy import PolicySettings


@runtime_checkable
class Scorer(Protocol):
    """Whatever gives one normalised score per completion; PPO hands it text, so tokenizers may differ."""

    def score(
        self, prompts: Sequence[PromptText], completions: Sequence[str], batch_size: int = 64
    ) -> Float[Tensor, " B"]: ...


@dataclass(frozen=True)
class Networks:
    """Policy, reference and critic, and what they say of a batch, in micro-batches.

    Attributes:
        policy: what is trained.
        reference: the frozen start; None when it is the policy itself with its adapter off.
        critic: what advantages are estimated with; None where the algorithm has none.
        settings: temperature and micro-batches.
        micro: how many rows go through at once; None takes what the settings say.
    """

    policy: Policy
    reference: Policy | None
    critic: Critic | None
    settings: PolicySettings
    micro: MicroBatches | None = None

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

        def both(part: Batch) -> tuple[Tensor, Tensor]:
            states = response_states(model, part)
            return response_logprobs(model, part, self.settings.temperature, states), critic(part, states)

        logprobs, values = self._in_parts(batch, both)
        return logprobs, values

    def values(self, batch: Batch) -> Float[Tensor, "B T"]:
        """The critic's V_t, 0 where padded."""
        critic, model = self.critic, self.policy.model
        assert critic is not None
        own = critic.backbone is not None
        (values,) = self._in_parts(batch, lambda part: (critic(part, None if own else response_states(model, part)),))
        return values

    def _logprobs(self, model: nn.Module, batch: Batch) -> Float[Tensor, "B T"]:
        temperature = self.settings.temperature
        (logprobs,) = self._in_parts(batch, lambda part: (response_logprobs(model, part, temperature),))
        return logprobs

    def _in_parts(self, batch: Batch, of: Callable[[Batch], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """What is said of micro-batches, put together again."""

        def work(size: int) -> tuple[Tensor, ...]:
            starts = range(0, len(batch.input_ids), size)
            parts = [of(Batch(*(tensor[start : start + size] for tensor in batch))) for start in starts]
            return tuple(map(torch.cat, zip(*parts, strict=True)))

        micro = self.micro or MicroBatches("policy", self.settings.micro_batch_size)
        return micro.attempt(len(batch.input_ids), work)


class Rollouts(NamedTuple):
    """One completion for each of some prompts.

    Attributes:
        batch: prompts and completions.
        scores: of the completions, what being cut off or long costs taken off.
        logprobs: log π of each token when it was sampled.
        ref_logprobs: the same under the frozen reference.
        values: of the critic, where there is one.
        finished: where EOS was written.
    """

    batch: Batch
    scores: Float[Tensor, " B"]
    logprobs: Float[Tensor, "B T"]
    ref_logprobs: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"] | None
    finished: Bool[Tensor, " B"]

    def figures(self) -> dict[str, float]:
        """Means over the completions; the KL in nats per sequence."""
        mask = self.batch.response_mask
        return {
            "reward_mean": float(self.scores.mean()),
            "reward_std": float(self.scores.std(correction=0)),
            "kl": float(torch.where(mask, self.logprobs - self.ref_logprobs, 0.0).sum(1).mean()),
            "response_tokens": float(mask.sum(1).float().mean()),
            "finished_share": float(self.finished.float().mean()),
        }


@torch.no_grad()
def roll_out(
    networks: Networks,
    scorer: Scorer,
    prompts: Sequence[PromptText],
    settings: PolicySettings,
    generator: torch.Generator,
) -> Rollouts:
    """Samples a completion for each prompt and scores it.

    Raises:
        NotFiniteError: a score, a logprob or a value is not finite; it holds the prompts, completions and scores.
        ValueError: memory has no room for the samples.
    """
    policy = networks.policy
    encoded = policy.encode_prompts(prompts)
    seeds = torch.randint(2**62, (len(prompts),), generator=generator).tolist()
    sampling = Sampling(temperature=settings.temperature, max_new_tokens=settings.max_new_tokens)
    critic = networks.critic
    # A head on the policy's own states reads along, where they are what a forward over the whole would have.
    value = critic.read if critic is not None and critic.backbone is None else None
    try:
        samples = sample(policy, encoded, [sampling] * len(prompts), seeds, value)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"memory ran out while {len(prompts)} completions were sampled at once ({error}); lower "
            "policy.prompts_per_iteration, policy.completions or policy.max_new_tokens"
        ) from error
    responses = samples.responses()
    batch = make_batch(encoded, responses, policy.device)
    texts = [policy.decode(response) for response in responses]
    raw = scorer.score(prompts, texts).to(policy.device)
    scores = final_scores(raw, samples.finished, settings.unfinished_score, settings.unfinished == "replace")
    scores = scores - length_penalty(samples.lengths, settings.length_penalty, settings.length_free)
    # In half precision a step of the sampler and a forward over the whole round differently, by more than PPO bears.
    kept = computes_in_float32(policy.model)
    logprobs, values = (samples.logprobs, samples.values) if kept else networks.logprobs_and_values(batch)
    ref_logprobs = networks.ref_logprobs(batch)
    if values is None and critic is not None:
        values = networks.values(batch)
    outputs = {"scores of the reward model": raw}
    outputs |= {"logprobs of the policy": logprobs, "logprobs of the reference": ref_logprobs}
    outputs |= {} if values is None else {"values of the critic": values}
    try:
        check_tensors(outputs)
    except NotFiniteError as error:
        rows = zip(prompts, texts, raw.tolist(), strict=True)
        completions = [
            {"prompt": prompt_text(prompt), "completion": text, "score": score} for prompt, text, score in rows
        ]
        raise NotFiniteError(str(error), {"completions": completions}) from None
    return Rollouts(batch, scores, logprobs, ref_logprobs, values, samples.finished)
