"""The table of algorithms: what it says is so, and nobody else tells algorithms apart."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch.nn.utils import parameters_to_vector

from rlhf.algorithms import ALGORITHMS, CHOICES, AlgorithmName, readers, unread
from rlhf.dpo.pairs import encode_pairs
from rlhf.dpo.trainer import DpoTrainer
from rlhf.models import Policy
from rlhf.policy.rollouts import Scorer
from rlhf.policy.trainer import PolicyTrainer
from rlhf.ppo.critic import Critic
from rlhf.ppo.trainer import PpoTrainer
from rlhf.settings.policy import KlSettings, PolicySettings
from tests.rlhf.dpo.conftest import LIKED, pairs_of

SMALL = {"iterations": 2, "prompts_per_iteration": 4, "max_new_tokens": 4, "minibatches": 2, "critic_warmup": 0}
OTHERWISE = {
    "critic_learning_rate": 0.5,
    "critic_warmup": 1,
    "discount": 0.5,
    "gae_lambda": 0.1,
    "value_clip": 3.0,
    "value_coefficient": 7.0,
    "completions": 3,
    "epochs": 3,
    "clip": 0.01,
    "dual_clip": 1.5,
    "entropy_coefficient": 0.5,
    "update_kl_ceiling": 1e-9,
    "kl.coefficient": 2.0,
    "kl.in": "loss",
    "kl.estimator": "k3",
    "kl.target": 0.5,
    "kl.horizon": 1,
}
"""A value for each setting that not all algorithms read, far from what it is by default."""


def settings_of(algorithm: str, **fields: object) -> PolicySettings:
    """The smallest run of an algorithm."""
    few = ALGORITHMS[algorithm].completions
    return PolicySettings.model_validate(SMALL | {"algorithm": algorithm, "completions": few} | fields)


def named_in_comparisons(tree: ast.AST) -> Iterator[str]:
    """Texts that something is compared with, or that a case is for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.MatchValue):
            yield from (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))  # type: ignore[misc]


def test_nobody_else_tells_algorithms_apart(repository: Path) -> None:
    """No comparison in the three layers has an algorithm's name in it: the table is asked instead."""
    found = {
        path.relative_to(repository).as_posix(): names
        for layer in ("rlhf", "tasks", "flows")
        for path in (repository / layer).rglob("*.py")
        if (names := set(ALGORITHMS) & {*named_in_comparisons(ast.parse(path.read_text(encoding="utf-8")))})
    }
    assert not found


def test_the_walk_sees_comparisons() -> None:
    """Equal, among several, or a case; but no text that is merely printed."""
    code = "if a == 'x' or b in ('y', 'z'): print('w')\nmatch a:\n    case 'v': pass"
    assert set(named_in_comparisons(ast.parse(code))) == {"x", "y", "z", "v"}


def test_every_row_can_be_chosen() -> None:
    """The names that params may give are those of the table."""
    assert get_args(AlgorithmName) == (*ALGORITHMS,)


def test_settings_of_the_table_are_settings() -> None:
    """Nothing is misspelt, and each is read by some algorithm and not by another."""
    for row in ALGORITHMS.values():
        names = {setting.split(".")[0] for setting in row.settings}
        assert names <= set(PolicySettings.model_fields)
        below = {setting.removeprefix("kl.") for setting in row.settings if setting.startswith("kl.")}
        assert below <= {field.alias or name for name, field in KlSettings.model_fields.items()}
    assert {setting for name in ALGORITHMS for setting in unread(name)} == {*OTHERWISE, *CHOICES}


def trainer_of(policy: Policy, reference: Policy, scorer: Scorer, settings: PolicySettings) -> PolicyTrainer:
    """The trainer of an algorithm, on prompts or on pairs."""
    row = ALGORITHMS[settings.algorithm]
    if row.learns_from == "pairs":
        table = encode_pairs(policy, pairs_of(LIKED), settings.max_new_tokens)
        return DpoTrainer(
            policy=policy,
            reference=reference,
            settings=settings,
            scorer=scorer,
            train_pairs=table,
            dev_pairs=table,
        )
    return PpoTrainer(
        policy=policy,
        reference=reference,
        critic=Critic(policy.model.base_model, policy.hidden) if row.critic else None,
        settings=settings,
        scorer=scorer,
        prompts=["a", "b c", "d", "e"],
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_an_algorithm_does_not_read_changes_nothing(
    speller: Policy, clone: Callable[[Policy], Policy], wordiness: Scorer, algorithm: str
) -> None:
    """Bit for bit the same figures and weights with every such setting at another value."""
    idle = {name: OTHERWISE[name] for name in unread(algorithm) - {*CHOICES}}
    kl = {name.removeprefix("kl."): value for name, value in idle.items() if name.startswith("kl.")}
    runs = []
    for fields in ({}, {name: value for name, value in idle.items() if "." not in name} | {"kl": kl}):
        settings, policy = settings_of(algorithm, **fields), clone(speller)
        trainer = trainer_of(policy, clone(speller), wordiness, settings)
        runs.append((list(trainer.train()), parameters_to_vector(policy.model.parameters())))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize("algorithm", [name for name, row in ALGORITHMS.items() if not row.critic])
@pytest.mark.parametrize("choice", [{"critic": "head"}, {"whiten_rewards": True}])
def test_a_part_that_an_algorithm_lacks_is_refused(algorithm: str, choice: dict[str, object]) -> None:
    """The error names the choice, whose it is, and the algorithm."""
    [name] = choice
    with pytest.raises(ValidationError, match=rf"{name} belongs to ppo; algorithm {algorithm} has no such part"):
        settings_of(algorithm, **choice)


@pytest.mark.parametrize("algorithm", [name for name, row in ALGORITHMS.items() if row.completions > 1])
def test_what_compares_completions_wants_several(algorithm: str) -> None:
    """One completion of a prompt has none to be compared with."""
    with pytest.raises(ValidationError, match=f"algorithm {algorithm} compares a prompt's completions.*at least 2"):
        settings_of(algorithm, completions=1)


def test_readers_of_a_setting() -> None:
    """Those whose row has it."""
    assert readers("gae_lambda") == ["ppo"]


def test_what_dpo_makes_of_pairs_is_refused_elsewhere() -> None:
    """Its settings at their defaults are everybody's; changed, they are dpo's alone."""
    with pytest.raises(ValidationError, match="dpo belongs to dpo; algorithm rloo has no such part"):
        settings_of("rloo", dpo={"beta": 0.3})
    assert settings_of("dpo", dpo={"beta": 0.3}).dpo.beta == 0.3
