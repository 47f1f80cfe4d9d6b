"""Where a result came from: the versions, the params and the digests of data (the commit: tasks/versioning/git.py).

Importing it costs nothing, and it knows no tracker: the tracker and the registry write down what it finds.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks.paths import Paths

LIBRARIES = ("torch", "transformers", "mlflow", "dvc", "prefect", "great-expectations", "evaluate", "pandas")
NOTE = "README.md"
"""What a folder that things are brought into says of itself; DVC passes over it there."""
EMPTY = "d751713988987e9331980363e24189ce.dir"
"""The digest of a folder without files."""
_CHUNK_BYTES = 1 << 20


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


def digest(path: Path, without: Collection[str] = ()) -> str:
    """The md5 that DVC gives a file, or a folder (then it ends in `.dir`): the same key as in dvc.lock.

    Args:
        path: the file or folder.
        without: files of the folder, relative to it, that DVC passes over.

    Raises:
        FileNotFoundError: there is neither a file nor a folder.
    """
    if path.is_file():
        return _file_digest(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder; run the stage that writes it first")
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    listing = [{"md5": _file_digest(files[name]), "relpath": name} for name in sorted(files.keys() - set(without))]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _file_digest(path: Path) -> str:
    found = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


def digests(paths: Paths, names: Iterable[str]) -> dict[str, str]:
    """`{name: digest}` of what lies at these names below the workspace's root; absent ones are left out."""
    places = {name: paths.root / name for name in names if (paths.root / name).exists()}
    return {name: digest(place, [NOTE] if place in paths.brought else []) for name, place in places.items()}
