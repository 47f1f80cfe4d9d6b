"""One night at a time: a lock on the workspace that its process holds until it ends, however it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.files import write_json
from tasks.paths import Paths
from tasks.versioning.dvc_repo import BusyError


class AnotherNightError(BusyError):
    """A night is at work here already."""


@contextmanager
def held(paths: Paths) -> Iterator[None]:
    """Holds the workspace's lock; the process that holds it already may enter again.

    The system lets go of the lock when the process ends, so that a killed night leaves none behind.

    Raises:
        AnotherNightError: another night is at work; it says which process and since when.
    """
    paths.nights.mkdir(parents=True, exist_ok=True)
    lock = FileLock(paths.nights / "night.lock", timeout=0, is_singleton=True, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise AnotherNightError(f"{paths.root}: {_who(paths)}; wait until it has ended, or end it") from None
    try:
        if lock.lock_counter == 1:
            write_json(
                _note(paths), {"pid": os.getpid(), "since": datetime.now().astimezone().isoformat(timespec="seconds")}
            )
        yield
    finally:
        lock.release()


def holder(paths: Paths) -> str | None:
    """Who holds the workspace's nights; None where nobody does."""
    if not (paths.nights / "night.lock").is_file():
        return None
    try:
        with held(paths):
            return None
    except AnotherNightError:
        return _who(paths)


def _note(paths: Paths) -> Path:
    """Who holds the lock; a file of its own, for trying to lock empties the lock's."""
    return paths.nights / "night.lock.json"


def _who(paths: Paths) -> str:
    if not _note(paths).is_file():  # it took the lock this instant
        return "another night has just begun"
    note = json.loads(_note(paths).read_text(encoding="utf-8"))
    return f"another night is at work (process {note['pid']}, since {note['since']})"
