"""The eight-word model as DPO meets it: pairs in which the word `a` is liked, and a trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from rlhf.dpo.pairs import encode_pairs
from rlhf.dpo.trainer import DpoTrainer
from rlhf.models import Policy
from rlhf.policy.rollouts import Scorer
from rlhf.records import Pair
from rlhf.settings.policy import PolicySettings

LIKED = [
    ("a", "a b", "c"),
    ("a", "a b", "d d d"),
    ("a", "c", "d d d"),
    ("b c", "a", "e e"),
    ("d", "b a", "b"),
    ("e a b", "a a", "c e"),
    ("c", "e a", "e d"),
]


def pairs_of(rows: Sequence[tuple[str, str, str]]) -> list[Pair]:
    """(prompt, chosen, rejected) as records."""
    return [Pair(prompt=prompt, chosen=chosen, rejected=rejected, annotator="us") for prompt, chosen, rejected in rows]


@pytest.fixture
def dpo_of(speller: Policy, clone: Callable[[Policy], Policy], wordiness: Scorer) -> Callable[..., DpoTrainer]:
    """Builds a trainer on the eight-word model, with a reference of its own unless one is given."""

    def build(
        policy: Policy | None = None,
        rows: Sequence[tuple[str, str, str]] = LIKED,
        own_reference: bool = True,
        **fields: object,
    ) -> DpoTrainer:
        defaults = {
            "algorithm": "dpo",
            "iterations": 3,
            "prompts_per_iteration": 4,
            "minibatches": 2,
            "max_new_tokens": 5,
            "learning_rate": 1e-2,
        }
        policy = clone(speller) if policy is None else policy
        table = encode_pairs(policy, pairs_of(rows), 5)
        return DpoTrainer(
            policy=policy,
            reference=clone(speller) if own_reference else None,
            settings=PolicySettings.model_validate(defaults | fields),
            scorer=wordiness,
            train_pairs=table,
            dev_pairs=table,
        )

    return build
