"""Back to an earlier champion, policy and reward model together, with the reason recorded.

The version that was rolled back is marked, so that no night promotes it again by itself. The command is
`nightjar rollback`.
"""

from __future__ import annotations

from typing import Any

from tasks.paths import Paths
from tasks.registry import decisions, versions
from tasks.registry.decisions import Decision
from tasks.registry.versions import CHAMPION, CHAMPION_BEFORE, RETIRED, ROLLED_BACK


def roll_back(paths: Paths, name: str, to: str | None, why: str) -> Decision:
    """Makes an earlier version champion, with its reward model, and records it.

    Args:
        paths: the workspace.
        name: what registered models' names begin with.
        to: a policy version; None is the champion before this one.
        why: the reason, in a person's words.

    Raises:
        ValueError: there is no champion before this one, no such version, it is champion already or retired, or its
            reward model was deleted.
    """
    client = versions.open_existing(paths)
    champion = versions.champion_of(client, name)
    if champion is None and to is None:
        raise ValueError(
            f"{name}-policy has no champion (there never was one, or it was deleted or retired), so there is nothing "
            "to go back from; name a version with --to to make that one champion"
        )
    target = versions.usable(versions.get_policy(client, name, to or _before(client, champion)))
    if champion is not None and target.version == champion.version:
        raise ValueError(f"{name}-policy version {target.version} is the champion already")
    decision = Decision(
        when=decisions.now(),
        version=int(target.version),
        promoted=True,
        by="rollback",
        reason=why,
        findings=[],
        figures={},
        champion_before=None if champion is None else int(champion.version),
        champion_after=int(target.version),
    )
    versions.move(client, name, {CHAMPION: decision.version})
    versions.untag(client, target.name, target.version, [ROLLED_BACK])
    if champion is not None:
        versions.tag(client, champion.name, champion.version, {ROLLED_BACK: f"{decision.when}: {why}"})
        if CHAMPION_BEFORE not in target.tags and int(target.version) > int(champion.version):
            # A step forward, to a version that no gate made champion: a rollback leads here.
            versions.tag(client, champion.name, target.version, {CHAMPION_BEFORE: str(champion.version)})
    decisions.append(paths, decision)
    return decision


def _before(client: Any, champion: Any) -> str:
    """The champion before this one that is not retired."""
    version, seen = champion, {str(champion.version)}
    while (before := version.tags.get(CHAMPION_BEFORE)) is not None and before not in seen:
        if not versions.exists(client, champion.name, before):
            raise ValueError(
                f"{champion.name} version {before} was champion before version {version.version} and has been deleted; "
                "name another with --to: nightjar lineage VERSION says what each was made from"
            )
        seen.add(before)
        version = client.get_model_version(champion.name, before)
        if RETIRED not in version.tags:
            return str(version.version)
    if version is champion:
        raise ValueError(
            f"{champion.name} version {champion.version} is the first champion, so there is none to go back to; name a "
            "version with --to to make that one champion"
        )
    raise ValueError(
        f"every champion before {champion.name} version {champion.version} is retired; name another version with --to: "
        "nightjar lineage VERSION says what each was made from"
    )
