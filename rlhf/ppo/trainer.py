"""PPO on a reward model's score: sample, score, estimate advantages, update, and watch the KL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlhf.batches import Batch, make_batch, response_logprobs
from rlhf.generation import Samples, sample
from rlhf.masking import explained_variance, masked_mean, whiten
from rlhf.models import Policy, computes_in_float32
from rlhf.optim import shuffled_batches
from rlhf.ppo.advantages import generalized_advantages
from rlhf.ppo.critic import Critic
from rlhf.ppo.kl import KlController
from rlhf.ppo.rewards import final_scores, token_rewards
from rlhf.ppo.update import Actors, Experience, update
from rlhf.records import Message, Sampling
from rlhf.settings import PpoSettings

PromptText = str | Sequence[Message]


class Scorer(Protocol):
    """Whatever gives one normalised score per completion; PPO hands it text, so tokenizers may differ."""

    def score(
        self, prompts: Sequence[PromptText], completions: Sequence[str], batch_size: int = 64
    ) -> Float[Tensor, " B"]: ...


@dataclass
class PpoTrainer:
    """The algorithm's state: the networks, their optimizers, the KL coefficient and the random stream."""

    policy: Policy
    reference: Policy
    critic: Critic
    scorer: Scorer
    prompts: Sequence[PromptText]
    settings: PpoSettings
    actors: Actors = field(init=False)
    controller: KlController = field(init=False)
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("found no prompt to sample for; PPO needs at least one in the train split")
        settings = self.settings
        self.policy.model.eval()  # dropout stays off wherever logprobs are compared
        self.reference.model.eval().requires_grad_(False)
        self.actors = Actors(
            self.policy.model,
            self.critic,
            torch.optim.AdamW(self.policy.model.parameters(), settings.learning_rate, weight_decay=0.0),
            torch.optim.AdamW(self.critic.parameters(), settings.critic_learning_rate, weight_decay=0.0),
        )
        self.controller = KlController.start(settings.kl)
        self.generator = torch.Generator().manual_seed(settings.seed)

    def train(self) -> Iterator[dict[str, float]]:
        """Runs the iterations, yielding each one's figures; ends early past the KL ceiling.

        Raises:
            RuntimeError: the policy is not the reference at the start, or its first ratios are not 1.
        """
        settings = self.settings
        rows = shuffled_batches(len(self.prompts), settings.prompts_per_iteration, settings.iterations, self.generator)
        for iteration, batch_rows in enumerate(rows):
            experience, figures = self.sample_experience([self.prompts[row] for row in batch_rows])
            if iteration == 0:
                _check_start(figures["kl"], self.policy)
            move = iteration >= settings.critic_warmup
            self._decay(iteration)
            figures |= update(self.actors, experience, settings, move, self.generator)
            self.controller.update(figures["kl"], len(batch_rows))
            yield figures
            if settings.kl.ceiling is not None and figures["kl"] > settings.kl.ceiling:
                return

    def _decay(self, iteration: int) -> None:
        """Both rates fall linearly towards 0 over the run (Huang et al. 2022, detail 4 of 13)."""
        left = 1.0 - iteration / self.settings.iterations
        for optimizer, rate in (
            (self.actors.policy_optimizer, self.settings.learning_rate),
            (self.actors.critic_optimizer, self.settings.critic_learning_rate),
        ):
            for group in optimizer.param_groups:
                group["lr"] = rate * left

    def check_learnt(self) -> None:
        """Raises ValueError when the policy still is the reference: a run that trained nothing is no success."""
        pairs = zip(self.policy.model.parameters(), self.reference.model.parameters(), strict=True)
        if all(torch.equal(learnt, start) for learnt, start in pairs):
            raise ValueError(
                "ppo changed no weight of the policy; are ppo.iterations above ppo.critic_warmup, and do the scores "
                "of the reward model differ?"
            )

    @torch.no_grad()
    def sample_experience(self, prompts: Sequence[PromptText]) -> tuple[Experience, dict[str, float]]:
        """Samples one completion per prompt, scores it, and estimates advantages."""
        settings = self.settings
        encoded = [self.policy.encode_prompt(prompt) for prompt in prompts]
        seeds = torch.randint(2**62, (len(prompts),), generator=self.generator).tolist()
        sampling = Sampling(temperature=settings.temperature, max_new_tokens=settings.max_new_tokens)
        samples = sample(self.policy, encoded, [sampling] * len(prompts), seeds)
        responses = [row[:length].tolist() for row, length in zip(samples.tokens, samples.lengths, strict=True)]
        batch = make_batch(encoded, responses, self.policy.device)
        texts = [self.policy.decode(response) for response in responses]
        raw_scores = self.scorer.score(prompts, texts).to(self.policy.device)
        scores = final_scores(raw_scores, samples.finished, settings.unfinished_score)
        logprobs = self._logprobs(self.policy.model, batch)
        ref_logprobs = self._logprobs(self.reference.model, batch)
        values = torch.cat([self.critic(part) for part in self._parts(batch)])
        rewards = token_rewards(
            scores,
            logprobs,
            ref_logprobs,
            batch.response_mask,
            self.controller.coefficient,
            settings.kl.estimator,
        )
        estimate = generalized_advantages(rewards, values, batch.response_mask, settings.discount, settings.gae_lambda)
        figures = self._figures(samples, scores, logprobs - ref_logprobs, batch)
        figures["explained_variance"] = float(explained_variance(values, estimate.returns, batch.response_mask))
        figures["advantage_mean"] = float(masked_mean(estimate.advantages, batch.response_mask))
        advantages = whiten(estimate.advantages, batch.response_mask)
        return Experience(batch, logprobs, values, advantages, estimate.returns), figures

    def _logprobs(self, model: nn.Module, batch: Batch) -> Float[Tensor, "B T"]:
        return torch.cat([response_logprobs(model, part, self.settings.temperature) for part in self._parts(batch)])

    def _parts(self, batch: Batch) -> Iterator[Batch]:
        size = self.settings.micro_batch_size or len(batch.input_ids)
        for start in range(0, len(batch.input_ids), size):
            yield Batch(*(tensor[start : start + size] for tensor in batch))

    def _figures(
        self, samples: Samples, scores: Float[Tensor, " B"], log_ratio: Float[Tensor, "B T"], batch: Batch
    ) -> dict[str, float]:
        return {
            "reward_mean": float(scores.mean()),
            "reward_std": float(scores.std(correction=0)),
            "kl": float(torch.where(batch.response_mask, log_ratio, 0.0).sum(1).mean()),
            "kl_coefficient": self.controller.coefficient,
            "response_tokens": float(samples.lengths.float().mean()),
            "finished_share": float(samples.finished.float().mean()),
        }


def _check_start(kl: float, policy: Policy) -> None:
    if not abs(kl) <= (1e-3 if computes_in_float32(policy.model) else 0.5):  # a NaN is refused too
        raise RuntimeError(
            f"before the first update the KL to the reference is {kl:.3g} nats per sequence, expected 0: the "
            "reference is not the model that PPO starts from; merge the SFT adapter, or use it as the reference"
        )
