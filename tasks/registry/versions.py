"""The model registry: versions that are identified by their content, and the aliases on them.

Works on the client that tasks.tracking.mlflow_store opens. A version carries the digest of the checkpoint it serves as
the tag `content`, so that the same weights are never registered twice; a policy version names the reward model that it
learnt from in the tag `reward_version`, and both carry the same aliases.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tasks.paths import Paths
from tasks.tracking import mlflow_store

CHALLENGER, CHAMPION = "challenger", "champion"
KINDS = ("policy", "reward")
CHAMPION_BEFORE = "champion_before"
"""A tag on a policy version: who was champion when it became so."""
ROLLED_BACK = "rolled_back"
"""A tag on a policy version: when a person rolled it back, and why."""
RETIRED = "retired"
"""A tag on a version of either kind: when it was retired, and why. It is not served, promoted or gone back to."""
MOVING = "aliases.moving"
"""A tag on the registered policy: the aliases' targets, recorded before the first of them moves."""
Aliases = dict[str, dict[str, int | None]]
"""By alias, the version of each kind that has it."""


def open_existing(paths: Paths) -> Any:
    """The client of an existing registry; raises ValueError where no night ever wrote to one."""
    if not (paths.mlruns / "mlflow.db").is_file():
        raise ValueError(f"{paths.mlruns}: nothing is registered here yet; a night registers its policy: nightjar run")
    return mlflow_store.open_client(paths)


def find_version(client: Any, model: str, content: str) -> Any:
    """The latest version of `model` that serves this content, or None."""
    matches = client.search_model_versions(f"name = '{model}' and tags.content = '{content}'")
    return max(matches, key=lambda version: int(version.version), default=None)


def create_version(client: Any, model: str, model_id: str, model_uri: str, run_id: str, content: str) -> Any:
    """Registers a logged model as the next version of `model`, which is created when it is new."""
    if not client.search_registered_models(f"name = '{model}'", max_results=1):
        client.create_registered_model(model)
    return client.create_model_version(model, model_uri, run_id, tags={"content": content}, model_id=model_id)


def tag(client: Any, model: str, version: int | str, tags: Mapping[str, str]) -> None:
    """Sets a version's tags, whatever they were before."""
    for key, value in tags.items():
        client.set_model_version_tag(model, str(version), key, value)


def untag(client: Any, model: str, version: int | str, keys: Iterable[str]) -> None:
    """Removes tags from a version, where it has them."""
    for key in keys:
        client.delete_model_version_tag(model, str(version), key)


def aliases_of(client: Any, model: str, version: int | str) -> list[str]:
    """The aliases of a version."""
    return sorted(client.get_model_version(model, str(version)).aliases)


def exists(client: Any, model: str, version: int | str | None) -> bool:
    """Whether a version is there; people may delete one in MLflow's UI."""
    return any(str(each.version) == str(version) for each in client.search_model_versions(f"name = '{model}'"))


def get_policy(client: Any, name: str, which: str) -> Any:
    """A policy version.

    Args:
        which: a number (3 or v3), `champion` or `challenger`.

    Raises:
        ValueError: there is none such; the message lists the existing ones.
    """
    repair_aliases(client, name)
    versions = {int(version.version): version for version in client.search_model_versions(f"name = '{name}-policy'")}
    number = which.removeprefix("v")
    version = int(number) if number.isdecimal() else _state(client, name).get(which, {}).get("policy")
    if version in versions:
        # By itself: a search leaves the aliases out.
        return client.get_model_version(f"{name}-policy", str(version))
    if not versions:
        raise ValueError(f"no version of {name}-policy is registered yet; a night registers one: nightjar run")
    numbers = ", ".join(str(number) for number in sorted(versions))
    if which in (CHAMPION, CHALLENGER):
        left = ", ".join(str(number) for number in sorted(versions) if RETIRED not in versions[number].tags)
        others = f"give one of {left}, make one champion (nightjar rollback --to VERSION), or "
        raise ValueError(
            f"no version of {name}-policy is {which}: it was never one, or was deleted or retired; "
            f"{others * bool(left)}let a night decide (nightjar run)"
        )
    raise ValueError(
        f"{which}: no such version of {name}-policy; give one of {numbers}, or an alias that one has "
        f"({', '.join(_state(client, name)) or 'none has any'})"
    )


def usable(version: Any) -> Any:
    """The version itself; raises ValueError where it was retired."""
    if RETIRED in version.tags:
        raise ValueError(
            f"{version.name} version {version.version} was retired ({version.tags[RETIRED]}); name another one: "
            "nightjar rollback --to VERSION makes one champion, and nightjar run trains one"
        )
    return version


def champion_of(client: Any, name: str) -> Any:
    """The policy version that is champion, or None; one that was retired is none, whoever gave it the alias again."""
    repair_aliases(client, name)
    version = get_policy(client, name, CHAMPION) if CHAMPION in _state(client, name) else None
    return None if version is None or RETIRED in version.tags else version


def move(client: Any, name: str, targets: Mapping[str, int]) -> None:
    """Sets aliases on policy versions and on the reward models that those learnt from: all of them move, or none.

    The targets are recorded first, in one tag. When a move fails, all aliases are set back; when the process dies in
    between, the next `repair_aliases` completes the move.

    Args:
        targets: by alias, the policy version that gets it.

    Raises:
        ValueError: a policy's reward model was deleted, so they cannot move together; nothing has moved.
    """
    before = _state(client, name)
    none: dict[str, int | None] = dict.fromkeys(KINDS)
    after = {}
    for alias, version in targets.items():
        reward = _reward_version(client, name, version)
        if reward is not None and not exists(client, f"{name}-reward", reward):
            raise ValueError(
                f"{name}-policy version {version} learnt from {name}-reward version {reward}, which was deleted from "
                "the registry, so nothing has moved; name another version, or register both again: nightjar run"
            )
        after[alias] = {"policy": version, "reward": reward or before.get(alias, none)["reward"]}
    _record_move(client, name, after)
    try:
        _set_aliases(client, name, after)
    except Exception:
        _record_move(client, name, {alias: before.get(alias, none) for alias in targets})
        repair_aliases(client, name)
        raise
    client.delete_registered_model_tag(f"{name}-policy", MOVING)


def remove_aliases(client: Any, name: str, aliases: Iterable[str]) -> None:
    """Removes aliases from policy and reward model alike; if the process dies in between, `repair_aliases` goes on."""
    after: Aliases = {alias: dict.fromkeys(KINDS) for alias in aliases}
    if client.search_registered_models(f"name = '{name}-policy'"):
        _record_move(client, name, after)
    _set_aliases(client, name, after)
    if client.search_registered_models(f"name = '{name}-policy'"):
        client.delete_registered_model_tag(f"{name}-policy", MOVING)


def repair_aliases(client: Any, name: str) -> None:
    """Completes a move that was interrupted, and sets each alias's reward model to that of the policy which has it.

    What was deleted since cannot have an alias: a reward model's goes, rather than stay on another's.
    """
    if not (registered := client.search_registered_models(f"name = '{name}-policy'")):
        return
    if MOVING in registered[0].tags:
        _set_aliases(client, name, json.loads(registered[0].tags[MOVING]))
        client.delete_registered_model_tag(f"{name}-policy", MOVING)
    for alias, versions in _state(client, name).items():
        reward = _reward_version(client, name, versions["policy"])
        if reward is None or reward == versions["reward"]:
            continue
        if not exists(client, f"{name}-reward", reward):
            _set_aliases(client, name, {alias: {"reward": None}})
        else:
            client.set_registered_model_alias(f"{name}-reward", alias, str(reward))


def _state(client: Any, name: str) -> Aliases:
    """The aliases that some policy version has, with their versions."""
    policies, rewards = (_holders(client, f"{name}-{kind}") for kind in KINDS)
    return {alias: {"policy": version, "reward": rewards.get(alias)} for alias, version in policies.items()}


def _holders(client: Any, model: str) -> dict[str, int]:
    registered = client.search_registered_models(f"name = '{model}'")
    return {alias: int(version) for each in registered for alias, version in each.aliases.items()}


def _reward_version(client: Any, name: str, policy: int | None) -> int | None:
    tags = client.get_model_version(f"{name}-policy", str(policy)).tags
    return int(tags["reward_version"]) if "reward_version" in tags else None


def _record_move(client: Any, name: str, aliases: Aliases) -> None:
    client.set_registered_model_tag(f"{name}-policy", MOVING, json.dumps(aliases))


def _set_aliases(client: Any, name: str, aliases: Aliases) -> None:
    for alias, versions in aliases.items():
        for kind, version in versions.items():
            if version is not None and exists(client, f"{name}-{kind}", version):
                client.set_registered_model_alias(f"{name}-{kind}", alias, str(version))
            elif client.search_registered_models(f"name = '{name}-{kind}'"):
                client.delete_registered_model_alias(f"{name}-{kind}", alias)
