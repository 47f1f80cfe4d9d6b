"""What differs between the algorithms that train the policy: a row each, which everything else asks.

Settings are checked by it before any model loads, so it imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

AlgorithmName = Literal["ppo", "reinforce", "rloo", "grpo", "dpo"]

_ROLLOUTS = (
    *("completions", "epochs", "clip", "dual_clip", "entropy_coefficient", "update_kl_ceiling"),
    *("kl.coefficient", "kl.in", "kl.estimator", "kl.target", "kl.horizon"),
)
_CRITIC = (
    *("critic", "critic_learning_rate", "critic_warmup", "value_clip", "value_coefficient"),
    *("discount", "gae_lambda", "whiten_rewards"),
)
_CURVES = ("reward_mean", "kl", "entropy", "clip_fraction", "explained_variance", "response_tokens")


@dataclass(frozen=True)
class Algorithm:
    """One row.

    Attributes:
        advantages: how they are estimated: token by token with the critic, or for whole completions by a function of
            rlhf/ppo/advantages.py; None where nothing is sampled to learn from.
        group: what a completion is compared with: the others of its prompt, or of its batch; None for nothing.
        critic: whether a critic stands beside the policy, learns before it and is in its checkpoints.
        whitens: whether the advantages of an iteration get mean 0 and deviation 1.
        completions: the fewest that it samples for a prompt.
        learns_from: rollouts that the reward model scores, or the pairs as they are.
        settings: those of policy that it reads, and not every algorithm does.
        penalty: the setting of policy that keeps it near the reference.
        curves: the figures drawn over the iterations; reward_mean, kl and response_tokens are among everybody's.
    """

    advantages: Literal["generalized", "leave_one_out", "group_normalised"] | None
    group: Literal["prompt", "batch"] | None = None
    critic: bool = False
    whitens: bool = False
    completions: int = 1
    learns_from: Literal["rollouts", "pairs"] = "rollouts"
    settings: tuple[str, ...] = _ROLLOUTS
    penalty: str = "kl.coefficient"
    curves: tuple[str, ...] = _CURVES


ALGORITHMS: Mapping[str, Algorithm] = {
    "ppo": Algorithm("generalized", critic=True, whitens=True, settings=_ROLLOUTS + _CRITIC),
    "reinforce": Algorithm("leave_one_out", "batch"),
    "rloo": Algorithm("leave_one_out", "prompt", completions=2),
    "grpo": Algorithm("group_normalised", "prompt", completions=2),
    "dpo": Algorithm(
        None,
        learns_from="pairs",
        settings=("dpo",),
        penalty="dpo.beta",
        curves=("reward_mean", "kl", "entropy", "loss", "margin", "accuracy", "eval_accuracy", "response_tokens"),
    ),
}

CHOICES = ("critic", "whiten_rewards", "dpo")
"""Settings that ask for a part which an algorithm has or has not; the others tune one."""


def unread(name: str) -> set[str]:
    """The settings of policy that other algorithms read, and this one does not."""
    return {setting for row in ALGORITHMS.values() for setting in row.settings} - {*ALGORITHMS[name].settings}


def readers(setting: str) -> list[str]:
    """The algorithms that read a setting which not all of them read."""
    return [name for name, row in ALGORITHMS.items() if setting in row.settings]
