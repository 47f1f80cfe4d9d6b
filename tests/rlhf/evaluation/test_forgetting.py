"""Forgetting: figures counted by hand, and models that forget less where they rehearse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rlhf import corpus
from rlhf.demonstrations import Example, encode_demonstrations, evaluate_loss
from rlhf.evaluation.forgetting import forgetting
from rlhf.models import Policy, build_policy
from rlhf.ppo.critic import Critic
from rlhf.ppo.trainer import PpoTrainer
from rlhf.records import Demonstration, PromptText
from rlhf.settings.policy import PolicySettings
from rlhf.settings.sft import SftSettings
from rlhf.sft import train_sft
from rlhf.tokenizers import train_tokenizer

SMALL = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 160,
    "tie_word_embeddings": True,
    "initializer_range": 0.06,
}


def test_rises_are_counted_from_each_model_to_a_later_one() -> None:
    """Losses 2, 2.5 and 2.25: SFT costs 2.5 - 2 = .5, PPO 2.25 - 2.5 = -.25, and together 2.25 - 2 = .25."""
    rises = forgetting({"base": 2.0, "sft": 2.5, "policy": 2.25})
    assert rises == {"sft_forgetting": 0.5, "policy_forgetting": -0.25, "forgetting": 0.25}


def test_without_a_base_only_ppo_can_forget() -> None:
    """A model from scratch knew nothing before SFT, so no rise is counted from there."""
    assert forgetting({"sft": 2.5, "policy": 2.75}) == {"policy_forgetting": 0.25}


class Skilled(NamedTuple):
    """A model that has learnt the general task, and the data of both tasks."""

    policy: Policy
    general: list[Example]
    general_dev: list[Example]
    train: list[Example]
    dev: list[Example]


@pytest.fixture(scope="module")
def skilled() -> Skilled:
    """From scratch, 120 steps on the labels of the tool store: about .25 nats per token where 6 were."""
    general, task = corpus.make_general_demonstrations(220, 0), corpus.make_demonstrations(220, 0)
    texts = [text for row in [*general, *task] for text in (str(row.prompt), row.response)]
    policy = build_policy(SMALL, train_tokenizer(texts, 400), seed=0)

    def encode(rows: Sequence[Demonstration]) -> list[Example]:
        return encode_demonstrations(policy, rows, 128, 96)

    found = Skilled(policy, encode(general[:200]), encode(general[200:]), encode(task[:200]), encode(task[200:]))
    list(train_sft(policy, found.general, found.general_dev, sft_settings(steps=120)))
    return found


def sft_settings(**fields: object) -> SftSettings:
    return SftSettings.model_validate({"batch_size": 8, "learning_rate": 1e-2, "eval_every": 1000, **fields})


def test_replay_keeps_what_sft_would_wear_away(skilled: Skilled, clone: Callable[[Policy], Policy]) -> None:
    """Both learn the restaurants as well; without replay the labels are lost, with three rows in ten they are not."""
    before = evaluate_loss(skilled.policy, skilled.general_dev)
    risen, learnt = {}, {}
    for replay in (0.0, 0.3):
        policy = clone(skilled.policy)
        settings = sft_settings(steps=60, replay=replay)
        list(train_sft(policy, skilled.train, skilled.dev, settings, skilled.general))
        risen[replay] = evaluate_loss(policy, skilled.general_dev) - before
        learnt[replay] = evaluate_loss(policy, skilled.dev)
    assert before < 0.5
    assert risen[0.0] > 1.5
    assert risen[0.3] < 0.25 * risen[0.0]
    assert learnt[0.3] < learnt[0.0] + 0.3
    assert max(learnt.values()) < 0.5 * evaluate_loss(skilled.policy, skilled.dev)


class Shouting:
    """A scorer that likes answers unlike those that the policy was taught: few letters, many marks."""

    def score(self, prompts: Sequence[PromptText], completions: Sequence[str], batch_size: int = 64) -> Tensor:
        return torch.tensor([4.0 - 0.2 * sum(map(str.isalpha, text)) for text in completions])


def test_the_pretraining_term_keeps_what_ppo_would_wear_away(
    skilled: Skilled, clone: Callable[[Policy], Policy]
) -> None:
    """No KL penalty holds either, and both gain reward; without ptx the labels are worn away, with it they are not."""
    before = evaluate_loss(skilled.policy, skilled.general_dev)
    prompts = [str(row.prompt) for row in corpus.make_demonstrations(40, 1)]
    risen, gained = {}, {}
    for coefficient in (0.0, 0.1):
        policy, reference = clone(skilled.policy), clone(skilled.policy)
        settings = PolicySettings.model_validate(
            {
                "iterations": 12,
                "prompts_per_iteration": 16,
                "learning_rate": 5e-3,
                "critic_warmup": 1,
                "kl": {"coefficient": 0.0},
                "ptx_coefficient": coefficient,
                "max_new_tokens": 24,
            }
        )
        critic = Critic(clone(skilled.policy).model.base_model, policy.hidden)
        trainer = PpoTrainer(
            policy=policy,
            reference=reference,
            critic=critic,
            scorer=Shouting(),
            prompts=prompts,
            settings=settings,
            general=skilled.general,
        )
        rewards = [figures["reward_mean"] for figures in trainer.train()]
        risen[coefficient] = evaluate_loss(policy, skilled.general_dev) - before
        gained[coefficient] = rewards[-1] - rewards[0]
    assert min(gained.values()) > 1.0
    assert risen[0.0] > 0.3
    assert risen[0.1] < 0.5 * risen[0.0]
