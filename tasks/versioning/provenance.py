"""Where a result came from: the versions, the params and the digests of data (the commit: tasks/versioning/git.py).

Importing it costs nothing, and it knows no tracker: the tracker and the registry record what it finds.
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
    installed = {"python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def flatten(value: Any, name: str) -> dict[str, str]:
    """Settings as dotted names and texts: `{"policy.kl.target": "null", "rollouts.sampling.0.top_k": "0"}`."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", by_alias=True)
    if isinstance(value, dict) and value:
        parts: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list) and value:
        parts = enumerate(value)
    else:
        return {name: value if isinstance(value, str) else json.dumps(value)}
    return {key: text for part, below in parts for key, text in flatten(below, f"{name}.{part}").items()}


def digests(paths: Paths, names: Iterable[str]) -> dict[str, str]:
    """`{name: digest}` of the files and folders of these names below the workspace's root, without absent ones."""
    present = {name: paths.root / name for name in names if (paths.root / name).exists()}
    return {name: digest(path, [NOTE] if path in paths.external else []) for name, path in present.items()}
