"""Where a result came from: the versions, the params and the digests of data (the commit: tasks/versioning/git.py).

Importing it costs nothing, and it knows no tracker: the tracker and the registry write down what it finds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel

from tasks.digests import NOTE, digest
from tasks.paths import Paths

LIBRARIES = ("torch", "transformers", "mlflow", "dvc", "prefect", "great-expectations", "evaluate", "pandas")


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that a result depends on, as far as they are installed."""
    found = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def flatten(value: Any, name: str) -> dict[str, str]:
    """Settings as dotted names and texts: `{"policy.kl.target": "null", "rollouts.sampling.0.top_k": "0"}`."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict) and value:
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and value:
        parts = enumerate(value)
    else:
        return {name: value if isinstance(value, str) else json.dumps(value)}
    return {key: text for part, below in parts for key, text in flatten(below, f"{name}.{part}").items()}


def digests(paths: Paths, names: Iterable[str]) -> dict[str, str]:
    """`{name: digest}` of what lies at these names below the workspace's root; absent ones are left out."""
    places = {name: paths.root / name for name in names if (paths.root / name).exists()}
    return {name: digest(place, [NOTE] if place in paths.external else []) for name, place in places.items()}
