"""Back to an earlier champion, policy and reward model together, with the reason recorded.

The version that was rolled back is marked, so that no night promotes it again by itself. The command is
`nightjar rollback`.
"""

from __future__ import annotations

from typing import Any

from tasks.paths import Paths
from tasks.registry import decisions, versions
from tasks.registry.decisions import Decision
from tasks.registry.versions import CHAMPION, CHAMPION_BEFORE, ROLLED_BACK


def roll_back(paths: Paths, name: str, to: str | None, why: str) -> Decision:
    """Makes an earlier version champion, with its reward model, and records it.

    Args:
        paths: the workspace.
        name: what registered models' names begin with.
        to: a policy version; None is the champion before this one.
        why: the reason, in a person's words.

    Raises:
        ValueError: there is no champion, none before it, or no such version, or it is champion already.
    """
    client = versions.open_existing(paths)
    champion = versions.champion_of(client, name)
    if champion is None:
        raise ValueError(f"{name}-policy has no champion yet, so there is nothing to go back from")
    target = versions.get_policy(client, name, to or _before(champion))
    if target.version == champion.version:
        raise ValueError(f"{name}-policy version {target.version} is the champion already")
    decision = Decision(
        when=decisions.now(),
        version=int(target.version),
        promoted=True,
        by="rollback",
        reason=why,
        findings=[],
        figures={},
        champion_before=int(champion.version),
        champion_after=int(target.version),
    )
    versions.move(client, name, {CHAMPION: decision.version})
    versions.tag(client, champion.name, champion.version, {ROLLED_BACK: f"{decision.when}: {why}"})
    versions.untag(client, champion.name, target.version, [ROLLED_BACK])
    if CHAMPION_BEFORE not in target.tags and int(target.version) > int(champion.version):
        # A step forward, to a version that no gate made champion: a rollback leads here.
        versions.tag(client, champion.name, target.version, {CHAMPION_BEFORE: str(champion.version)})
    decisions.append(paths, decision)
    return decision


def _before(champion: Any) -> str:
    if CHAMPION_BEFORE not in champion.tags:
        raise ValueError(
            f"{champion.name} version {champion.version} is the first champion, so there is none to go back to; name a "
            "version with --to to make that one champion"
        )
    return str(champion.tags[CHAMPION_BEFORE])
