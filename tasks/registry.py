"""The model registry: versions that are told apart by their content, and the aliases on them.

Works on the client that tasks.mlflow_store opens. A version carries the digest of the checkpoint it serves as
the tag `content`, so that the same weights are never registered twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHALLENGER, CHAMPION = "challenger", "champion"


def find_version(client: Any, name: str, content: str) -> str | None:
    """The latest version of `name` that serves this content, or None."""
    found = client.search_model_versions(f"name = '{name}' and tags.content = '{content}'")
    return str(max(found, key=lambda version: int(version.version)).version) if found else None


def create_version(client: Any, name: str, model_id: str, model_uri: str, run_id: str, content: str) -> str:
    """Registers a logged model as the next version of `name`, which is created when it is new."""
    if not client.search_registered_models(f"name = '{name}'", max_results=1):
        client.create_registered_model(name)
    made = client.create_model_version(name, model_uri, run_id, tags={"content": content}, model_id=model_id)
    return str(made.version)


def tag(client: Any, name: str, version: str, tags: Mapping[str, str]) -> None:
    """Sets a version's tags, whatever they were before."""
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)


def judge(client: Any, name: str, version: str, promote: bool, reason: str) -> None:
    """Writes the decision and its reason where people read it: the description and the tags."""
    client.update_model_version(name, version, reason)
    tag(client, name, version, {"promoted": "yes" if promote else "no", "reason": reason})


def set_aliases(client: Any, name: str, version: str, promote: bool) -> list[str]:
    """Makes a version the challenger, and the champion too when promoted; returns the aliases it now has.

    Whoever was champion stays so until another version is promoted.
    """
    client.set_registered_model_alias(name, CHALLENGER, version)
    if promote:
        client.set_registered_model_alias(name, CHAMPION, version)
    return sorted(client.get_model_version(name, version).aliases)
