"""What the registry holds now, from MLflow's own tables: commands that import nothing heavy ask it too.

People may delete a version, an alias or a whole model in MLflow's UI. What a night remembers of them (nights/) is then
no longer so.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import NamedTuple

from tasks.paths import Paths
from tasks.registry import decisions
from tasks.registry.versions import CHAMPION, KINDS, RETIRED

DELETED = "Deleted_Internal"
"""The stage that MLflow gives a version which was deleted."""


class Existing(NamedTuple):
    """The versions that are there.

    Attributes:
        policies: of the policy.
        rewards: of the reward model.
        aliases: by alias, the policy version that has it.
        reward_of: by policy version, the reward model's that it learnt from, also one that is gone.
        retired: the policy versions that were taken out of service, with when and why.
    """

    policies: frozenset[int]
    rewards: frozenset[int]
    aliases: dict[str, int]
    reward_of: dict[int, int]
    retired: dict[int, str]


def read(paths: Paths, name: str) -> Existing:
    """What is registered under a name; nothing where no night ever registered.

    Args:
        name: what registered models' names begin with.
    """
    database = paths.mlruns / "mlflow.db"
    if not database.is_file():
        return Existing(frozenset(), frozenset(), {}, {}, {})
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        policies, rewards = (
            frozenset(
                number
                for (number,) in connection.execute(
                    "SELECT version FROM model_versions WHERE name = ? AND current_stage != ?",
                    (f"{name}-{kind}", DELETED),
                )
            )
            for kind in KINDS
        )
        policy = (f"{name}-policy",)
        aliases = dict(connection.execute("SELECT alias, version FROM registered_model_aliases WHERE name = ?", policy))
        tags = "SELECT version, value FROM model_version_tags WHERE name = ? AND key = ?"
        learnt, retired = (dict(connection.execute(tags, (*policy, key))) for key in ("reward_version", RETIRED))
        return Existing(
            policies,
            rewards,
            aliases,
            {version: int(value) for version, value in learnt.items()},
            {version: why for version, why in retired.items() if version in policies},
        )


def must_register(paths: Paths, name: str) -> bool:
    """Whether register has to run again: what it made last, or who was champion then, is no longer registered."""
    return any(number not in there for _, number, there in _needed(paths, read(paths, name)))


def notices(paths: Paths, name: str) -> list[str]:
    """What the nights remember and the registry no longer has, each with what to do."""
    now = read(paths, name)
    needed = _needed(paths, now)
    lines = [
        f"{name}-{kind} version {number} is gone from the registry; a night registers and decides again: nightjar run"
        for kind, number, there in needed
        if number not in there
    ]
    learnt = now.reward_of.get(now.aliases.get(CHAMPION, 0))
    if learnt not in (None, *now.rewards, *(number for kind, number, _ in needed if kind == "reward")):
        lines.append(
            f"{name}-reward version {learnt}, from which the champion learnt, is gone from the registry; the policy "
            "answers without it, and the next promotion brings both"
        )
    return lines


def _needed(paths: Paths, now: Existing) -> list[tuple[str, int, frozenset[int]]]:
    """The versions that nights go by, by kind, each with those that are there: register's last, and the champion."""
    past, needed = decisions.read(paths), set[tuple[str, int]]()
    if paths.registered.is_file():
        report = json.loads(paths.registered.read_text(encoding="utf-8"))
        needed |= {(kind, report[kind]["version"]) for kind in KINDS}
    if past and past[-1].champion_after is not None:
        needed.add(("policy", past[-1].champion_after))
    there = {"policy": now.policies, "reward": now.rewards}
    return [(kind, number, there[kind]) for kind, number in sorted(needed)]
