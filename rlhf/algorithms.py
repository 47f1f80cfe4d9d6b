"""What differs between the algorithms that train the policy: a row each, which everything else asks.

Settings are checked by it before any model loads, so it imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

AlgorithmName = Literal["ppo", "reinforce", "rloo", "grpo"]


@dataclass(frozen=True)
class Algorithm:
    """One row.

    Attributes:
        advantages: how they are estimated: token by token with the critic, or for whole completions by a function of
            rlhf/ppo/advantages.py.
        group: what a completion is compared with: the others of its prompt, or of its batch; None with a critic.
        critic: whether a critic stands beside the policy, learns before it and is in its checkpoints.
        whitens: whether the advantages of an iteration get mean 0 and deviation 1.
        completions: the fewest that it samples for a prompt.
        settings: those of policy that it reads, and not every algorithm does.
        penalty: the setting of policy that keeps it near the reference.
    """

    advantages: Literal["generalized", "leave_one_out", "group_normalised"]
    group: Literal["prompt", "batch"] | None
    settings: frozenset[str]
    critic: bool = False
    whitens: bool = False
    completions: int = 1
    penalty: str = "kl.coefficient"


_CRITIC = ("critic", "critic_learning_rate", "critic_warmup", "value_clip", "value_coefficient")
_TOKENS = ("discount", "gae_lambda", "whiten_rewards")

ALGORITHMS: Mapping[AlgorithmName, Algorithm] = {
    "ppo": Algorithm("generalized", None, frozenset(_CRITIC + _TOKENS), critic=True, whitens=True),
    "reinforce": Algorithm("leave_one_out", "batch", frozenset()),
    "rloo": Algorithm("leave_one_out", "prompt", frozenset(), completions=2),
    "grpo": Algorithm("group_normalised", "prompt", frozenset(), completions=2),
}

CHOICES = frozenset(("critic", "whiten_rewards"))
"""Settings that ask for a part which an algorithm has or has not; the others tune one."""


def unread(name: AlgorithmName) -> frozenset[str]:
    """The settings of policy that other algorithms read, and this one does not."""
    return frozenset().union(*(row.settings for row in ALGORITHMS.values())) - ALGORITHMS[name].settings


def readers(setting: str) -> list[str]:
    """The algorithms that read a setting which not all of them read."""
    return [name for name, row in ALGORITHMS.items() if setting in row.settings]
