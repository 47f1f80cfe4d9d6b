"""Digests of files and folders, the same as DVC's; imports nothing heavy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

NOTE = "README.md"
"""The note for people in a folder that no stage writes; DVC ignores it there."""
EMPTY = "d751713988987e9331980363e24189ce.dir"
"""The digest of a folder without files."""
_CHUNK_BYTES = 1 << 20


def digest(path: Path, without: Collection[str] = ()) -> str:
    """The md5 that DVC gives a file, or a folder (then it ends in `.dir`): the same key as in dvc.lock.

    Args:
        path: the file or folder.
        without: files of the folder, relative to it, that DVC ignores.

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
    md5 = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            md5.update(chunk)
    return md5.hexdigest()
