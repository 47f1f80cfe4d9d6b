"""PPO and its kin on a reward model's score: sample, score, estimate advantages, update, and watch the KL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlhf.adapters import trainable_parameters
from rlhf.algorithms import ALGORITHMS
from rlhf.finite import NotFiniteError, check_state
from rlhf.policy.rollouts import Networks, Scorer
from rlhf.policy.trainer import PolicyTrainer, adam, check_start
from rlhf.ppo.critic import Critic
from rlhf.ppo.experience import Experience, sample_experience
from rlhf.ppo.kl import KlController
from rlhf.ppo.update import Actors, update
from rlhf.records import PromptText, prompt_text


@dataclass(kw_only=True)
class PpoTrainer(PolicyTrainer):
    """The algorithm's state: what all trainers have, the critic, the optimizers and the KL coefficient.

    Attributes:
        critic: what advantages are estimated with; None where the algorithm has none.
        scorer: what pays for completions.
        prompts: what they are sampled for.
    """

    remedy = "are policy.iterations above policy.critic_warmup, and do the scores of the reward model differ?"

    critic: Critic | None
    scorer: Scorer
    prompts: Sequence[PromptText]
    actors: Actors = field(init=False)
    controller: KlController = field(init=False)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("found no prompt to sample for; PPO needs at least one in the train split")
        super().__post_init__()
        settings, critic = self.settings, self.critic
        assert (critic is not None) == ALGORITHMS[settings.algorithm].critic
        self.networks = Networks(self.policy, self.reference, critic, settings, self.micro)
        self.actors = Actors(
            self.policy.model,
            critic,
            adam(trainable_parameters(self.policy), settings.learning_rate),
            None if critic is None else adam(critic.parameters(), settings.critic_learning_rate),
        )
        self.controller = KlController.start(settings.kl)

    @property
    def items(self) -> int:
        return len(self.prompts)

    def learn(self, rows: Sequence[int]) -> dict[str, float] | None:
        """Samples, scores and updates; None once the KL of what was sampled is past the ceiling.

        Raises:
            NotFiniteError: what the networks said of the rollouts is not finite; nothing has moved.
        """
        settings = self.settings
        prompts = [self.prompts[row] for row in rows]
        experience, figures = self.sample_experience(prompts)
        if self.iteration == self.idle:  # the first to learn anything
            check_start(figures["kl"], self.policy)
        if self.passes_ceiling(figures["kl"]):
            return None
        self.decay()
        move = self.critic is None or self.iteration >= settings.critic_warmup
        general = self.learn_general if self.general and settings.ptx_coefficient > 0 else None

        def skip(error: NotFiniteError, index: Tensor) -> None:
            ids, mask = experience.batch.response_ids, experience.batch.response_mask
            texts = [
                {
                    "prompt": prompt_text(prompts[row // settings.completions]),
                    "completion": self.policy.decode(ids[row][mask[row]].tolist()),
                }
                for row in index.tolist()
            ]
            figures.update(self.skip(error, completions=texts))

        figures |= update(self.actors, experience, settings, move, self.generator, general, skip, self.micro)
        self.controller.update(figures["kl"], len(experience.logprobs))
        return figures

    def optimizers(self) -> list[tuple[torch.optim.Optimizer, float]]:
        actors, settings = self.actors, self.settings
        optimizers = [(actors.policy_optimizer, settings.learning_rate)]
        if actors.critic_optimizer is not None:
            optimizers.append((actors.critic_optimizer, settings.critic_learning_rate))
        return optimizers

    def sample_experience(self, prompts: Sequence[PromptText]) -> tuple[Experience, dict[str, float]]:
        """Completions of some prompts with their advantages, and the figures of the rollout."""
        beta = self.controller.coefficient
        experience, figures = sample_experience(
            self.networks, self.scorer, prompts, self.settings, beta, self.generator
        )
        return experience, {**figures, "kl_coefficient": beta}

    def state_dict(self) -> dict[str, Any]:
        critic = self.critic and self.critic.state_dict()
        check_state(critic, "the checkpoint: critic")
        return super().state_dict() | {"critic": critic, "kl_coefficient": self.controller.coefficient}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])
        self.controller.coefficient = state["kl_coefficient"]
