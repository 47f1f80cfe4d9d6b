"""Versions taken out of service for good: their aliases go, and a tag says since when and why.

Nothing that goes by an alias picks them then (chat, a server, a night's rematch), and rollback and nights refuse them.
Their files stay, so that what is registered stays an account of what was.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from tasks.registry import versions
from tasks.registry.versions import KINDS, RETIRED

Numbers = Mapping[str, Sequence[int]]
"""Versions by the name of their registered model."""

NOBODY = "forgotten"
"""What stands in an account for an annotator who was forgotten."""


def names(client: Any) -> list[str]:
    """What the names of the registered models begin with, whatever params say by now."""
    models = [model.name for model in client.search_registered_models(max_results=1000)]
    return sorted({model.removesuffix(f"-{kind}") for model in models for kind in KINDS if model.endswith(f"-{kind}")})


def every(client: Any) -> list[Any]:
    """Every version of a policy or a reward model that is there, by model and number."""
    models = [f"{name}-{kind}" for name in names(client) for kind in KINDS]
    registered = [version for model in models for version in client.search_model_versions(f"name = '{model}'")]
    return sorted(registered, key=lambda version: (version.name, int(version.version)))


@contextmanager
def retired(client: Any, numbers: Numbers, why: str) -> Iterator[None]:
    """Retires versions on entering; an error within, or on the way, sets aliases and tags back.

    Args:
        numbers: the versions; the aliases of a policy go from its reward model too.
        why: when and why, as the tag says it.
    """
    before = {model: dict(client.get_registered_model(model).aliases) for model in _models(client, numbers)}
    done: list[tuple[str, int]] = []
    try:
        for name in names(client):
            gone = {
                alias
                for kind in KINDS
                for alias, version in before.get(f"{name}-{kind}", {}).items()
                if int(version) in numbers.get(f"{name}-{kind}", ())
            }
            if gone:
                versions.remove_aliases(client, name, gone)
        for model, each in numbers.items():
            for number in each:
                versions.tag(client, model, number, {RETIRED: why})
                done.append((model, number))
        yield
    except BaseException:
        for model, number in done:
            versions.untag(client, model, number, [RETIRED])
        for model, aliases in before.items():
            for alias, version in aliases.items():
                client.set_registered_model_alias(model, alias, str(version))
        raise


def _models(client: Any, numbers: Numbers) -> set[str]:
    """The registered models that lose an alias: those of the versions, and the reward model beside a policy."""
    existing = {model.name for model in client.search_registered_models(max_results=1000)}
    partners = {f"{model.rpartition('-')[0]}-{kind}" for model in numbers for kind in KINDS}
    return existing & (partners | set(numbers))


def erase_annotator(client: Any, model: str, number: int, annotator: str) -> bool:
    """Takes an annotator's name out of a version's tags and description; returns whether it stood there."""
    version = client.get_model_version(model, str(number))
    counts = json.loads(version.tags.get("annotators", "{}"))
    if annotator not in counts:
        return False
    counts[NOBODY] = counts.get(NOBODY, 0) + counts.pop(annotator)
    versions.tag(client, model, number, {"annotators": json.dumps(counts)})
    client.update_model_version(model, str(number), without_annotator(version.description or "", annotator))
    return True


def without_annotator(card: str, annotator: str) -> str:
    """A model card without an annotator's name."""
    return card.replace(f"| rankings by {annotator.replace('|', chr(92) + '|')} |", f"| rankings by {NOBODY} |")
