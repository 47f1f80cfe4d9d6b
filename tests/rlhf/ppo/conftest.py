"""The eight-word model as PPO meets it: ragged rollouts with what made-up networks said of them, and a trainer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rlhf.batches import make_batch
from rlhf.heads import response_logprobs
from rlhf.models import Policy
from rlhf.policy.rollouts import Scorer
from rlhf.ppo.critic import Critic
from rlhf.ppo.experience import Experience
from rlhf.ppo.trainer import PpoTrainer
from rlhf.ppo.update import Actors
from rlhf.settings.policy import PolicySettings

PROMPTS = [[3, 2], [4, 5, 2], [6, 2], [7, 3, 4, 2], [5, 2], [4, 4, 2]]
QUESTIONS = ["a", "b c", "d", "e a b", "c", "b", "e d", "a a"]
RESPONSES = [[5, 6, 1], [3, 1], [7, 7, 7, 7, 7], [1], [4, 3, 5, 1], [6, 6]]


@pytest.fixture
def learner(speller: Policy, clone: Callable[[Policy], Policy]) -> Policy:
    """A policy that a test may train."""
    return clone(speller)


@pytest.fixture
def actors(learner: Policy) -> Actors:
    """Policy and critic under plain gradient descent at rate 1, so that a step's change is its gradient."""
    critic = Critic(learner.model.base_model, learner.hidden)
    torch.nn.init.normal_(critic.head.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return Actors(
        learner.model,
        critic,
        torch.optim.SGD(learner.model.parameters(), lr=1.0),
        torch.optim.SGD(critic.parameters(), lr=1.0),
    )


@pytest.fixture
def experience(learner: Policy, actors: Actors) -> Experience:
    """What the policy and the critic say of the rollouts now, with random advantages and returns."""
    batch, draw = make_batch(PROMPTS, RESPONSES), torch.Generator().manual_seed(2)
    assert actors.critic is not None
    with torch.no_grad():
        logprobs, values = response_logprobs(learner.model, batch), actors.critic(batch)
    advantages, returns = (
        torch.where(batch.response_mask, torch.randn(values.shape, generator=draw), 0.0) for _ in range(2)
    )
    return Experience(batch, logprobs, logprobs, values, advantages, returns, torch.zeros_like(advantages))


@pytest.fixture
def trainer_of(speller: Policy, clone: Callable[[Policy], Policy], wordiness: Scorer) -> Callable[..., PpoTrainer]:
    """Builds a trainer on the eight-word model; what is not said is small and quick."""

    def build(policy: Policy = speller, **fields: object) -> PpoTrainer:
        defaults = {
            "iterations": 2,
            "prompts_per_iteration": 8,
            "max_new_tokens": 6,
            "minibatches": 2,
            "critic_warmup": 0,
        }
        settings = PolicySettings.model_validate(defaults | fields)
        backbone = None if settings.critic == "head" else policy.model.base_model
        critic = Critic(backbone, policy.hidden) if settings.algorithm == "ppo" else None
        return PpoTrainer(
            policy=clone(policy),
            reference=clone(policy),
            critic=critic,
            scorer=wordiness,
            prompts=QUESTIONS,
            settings=settings,
        )

    return build


@pytest.fixture
def shake() -> Callable[[Policy | None], None]:
    """Moves every weight of a policy by a little noise."""

    def move(policy: Policy | None) -> None:
        draw = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for weight in policy.model.parameters():
                weight.add_(0.2 * torch.randn(weight.shape, generator=draw))

    return move
