"""The stages' versions: DVC, called in this process instead of on its command line.

The only module that imports dvc. `reproduce` is `dvc repro --single-item` with the stage's command
replaced by a function call: same locks, same removal of old outputs, same restoring from the run
cache, so that whatever ran here is up to date for `dvc repro` too. DVC has no public door for that;
should its private one (`dvc.stage.run.cmd_run`) go, the public command is run instead.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.versioning import git

if TYPE_CHECKING:
    from dvc.repo import Repo

Digests = dict[str, str]
"""DVC's MD5 of each file or folder (`….dir`), by path relative to the workspace."""

EXPERIMENTS = "refs/exps"
"""Where DVC keeps experiments in git: each is a commit at refs/exps/<baseline, split after two>/<name>."""


@dataclass(frozen=True)
class Outcome:
    """How a stage came up to date: it ran, nothing had changed, or its outputs came from the cache."""

    status: Literal["ran", "cached", "restored"]
    inputs: Digests
    outputs: Digests


class BusyError(ValueError):
    """Another process works on the same stage or files."""


def reproduce(stage: str, root: Path, action: Callable[[], object]) -> Outcome:
    """Brings one stage of dvc.yaml up to date, calling `action` if it has to run.

    Args:
        stage: its name in dvc.yaml.
        root: the workspace, with dvc.yaml and .dvc.
        action: does the stage's work in this process. While it runs the stage's old outputs are gone.

    Raises:
        BusyError: another process holds the stage's files.
        Exception: whatever `action` raised, as it was.
    """
    if not has_private_door():
        return _reproduce_outside(stage, root)
    ran: list[bool] = []

    def call() -> None:
        ran.append(True)
        action()

    with _opened(root) as repo:
        with _unwrapped(root), _in_process(call):
            changed = repo.reproduce([_target(root, stage)], single_item=True)
        return _outcome(repo, root, stage, "ran" if ran else "restored" if changed else "cached")


def stale(root: Path) -> list[str]:
    """The stages that a night would run or restore, in dvc.yaml's order; reads only, starts nothing."""
    with _opened(root) as repo, _unwrapped(root):
        changed = {name.rpartition(":")[2] for name in repo.status()}
        return [stage.name for stage in _stages(repo) if stage.name in changed]


def digests(stage: str, root: Path) -> Outcome:
    """What dvc.lock says of a stage's inputs and outputs now; empty where it never ran."""
    with _opened(root) as repo:
        return _outcome(repo, root, stage, "cached")


def recorded(root: Path) -> dict[str, Outcome]:
    """What dvc.lock says of every stage's inputs and outputs, in dvc.yaml's order."""
    with _opened(root) as repo:
        return {stage.name: _known(stage, "cached") for stage in _stages(repo)}


def cached_folder(root: Path, digest: str) -> dict[str, Path] | None:
    """The paths in DVC's cache of a folder's files, by their names; None where one is missing."""
    with _opened(root) as repo:
        path_of = repo.cache.local.oid_to_path
        listing = Path(path_of(digest))
        if not listing.is_file():
            return None
        rows = json.loads(listing.read_text(encoding="utf-8"))
        files = {row["relpath"]: Path(path_of(row["md5"])) for row in rows}
    return files if all(file.is_file() for file in files.values()) else None


def cached_files(root: Path) -> dict[str, Path]:
    """Everything in DVC's cache by its MD5; a folder's listing by its `….dir`. Empty where there is no DVC."""
    if not (root / ".dvc").is_dir():
        return {}
    with _opened(root) as repo:
        folder = Path(repo.cache.local.path)
    files = (file for file in folder.glob("??/*") if file.is_file())
    return {f"{file.parent.name}{file.name}": file for file in files}


def listing(file: Path) -> dict[str, str]:
    """What a listing in the cache says of its folder: the MD5 of each file, by its path in the folder."""
    return {row["relpath"]: row["md5"] for row in json.loads(file.read_text(encoding="utf-8"))}


def remotes(root: Path) -> list[str]:
    """The names of DVC's remotes, which hold what was pushed to them."""
    if not (root / ".dvc").is_dir():
        return []
    with _opened(root) as repo:
        return sorted(repo.config["remote"])


def fetch(root: Path, output: str, commit: str) -> bool:
    """Fetches an output of a commit from DVC's remote into the cache; False where that fails."""
    from dvc.exceptions import DvcException

    with _opened(root) as repo:
        try:
            return bool(repo.fetch([output], revs=[commit]))
        except DvcException:
            return False


def share_cache(root: Path, other: Path) -> None:
    """Has another workspace keep its outputs and runs in this one's cache."""
    from dvc.config import Config

    with _opened(root) as repo:
        cache = repo.cache.local_cache_dir
    with Config(str(other / ".dvc")).edit("local") as config:
        config["cache"]["dir"] = cache


def experiment_ref(baseline: str, name: str) -> str:
    """Where DVC looks for the experiment of this name that started from a commit."""
    return f"{EXPERIMENTS}/{baseline[:2]}/{baseline[2:]}/{name}"


def has_private_door() -> bool:
    """Whether DVC still runs a stage's command through the function that is replaced here."""
    from dvc.stage import run

    door = getattr(run, "cmd_run", None)
    return door is not None and list(signature(door).parameters) == ["stage", "dry", "run_env"]


@contextmanager
def _in_process(call: Callable[[], None]) -> Iterator[None]:
    from dvc.stage import run

    def cmd_run(stage: Any, dry: bool = False, run_env: dict[str, str] | None = None) -> None:
        call()

    original = run.cmd_run
    run.cmd_run = cmd_run
    try:
        yield
    finally:
        run.cmd_run = original


@contextmanager
def _opened(root: Path) -> Iterator[Repo]:
    if not (root / ".dvc").is_dir():
        raise FileNotFoundError(f"{root / '.dvc'}: no such folder; run this in a checkout, or run: dvc init")
    from dvc.repo import Repo

    # DVC's warnings (an empty folder, a lock taken over) are for its own command's users.
    logging.getLogger("dvc").setLevel(logging.ERROR)
    config = {} if git.is_checkout(root) else {"core": {"no_scm": True}}
    # DVC resolves some of its paths from the working directory, wherever its root is.
    with chdir(root), Repo(str(root), config=config) as repo:
        yield repo


@contextmanager
def _unwrapped(root: Path) -> Iterator[None]:
    """Lets a stage's own error out of DVC's wrapping, and explains a lock."""
    from dvc.exceptions import ReproductionError
    from dvc.lock import LockError

    try:
        yield
    except LockError as error:
        raise _busy(root, error) from None
    except ReproductionError as error:
        cause = error.__cause__
        if isinstance(cause, LockError):
            raise _busy(root, cause) from None
        if cause is None:
            raise
        # The stage's own error keeps the context that it had, without DVC's around it.
        raise cause.with_traceback(cause.__traceback__) from cause.__cause__


def _busy(root: Path, error: Exception) -> BusyError:
    return BusyError(
        f"{root}: another process is working here; wait until it has ended. Should none be left, delete "
        f"{root / '.dvc' / 'tmp' / 'rwlock'} and try again. DVC says: {error}"
    )


def _target(root: Path, stage: str) -> str:
    return f"{root / 'dvc.yaml'}:{stage}"


def _outcome(repo: Repo, root: Path, stage: str, status: Literal["ran", "cached", "restored"]) -> Outcome:
    # Read anew: the stage that ran was loaded before its lock was written.
    repo._reset()
    [loaded] = repo.stage.collect(_target(root, stage))
    return _known(loaded, status)


def _stages(repo: Repo) -> list[Any]:
    """The stages of dvc.yaml; without what a team added with `dvc add`."""
    return [stage for stage in repo.index.stages if hasattr(stage, "name")]


def _known(stage: Any, status: Literal["ran", "cached", "restored"]) -> Outcome:
    def known(items: Any) -> Digests:
        hashes = {str(item.def_path): item.hash_info for item in items if getattr(item, "hash_info", None)}
        return {path: info.value for path, info in hashes.items() if info.name == "md5" and info.value}

    return Outcome(status, known(stage.deps), known(stage.outs))


def _reproduce_outside(stage: str, root: Path) -> Outcome:
    before = digests(stage, root)
    binaries = Path(sys.executable).parent
    path = os.pathsep.join([str(binaries), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
    done = subprocess.run(command, cwd=root, env={**os.environ, "PATH": path}, text=True, stdout=subprocess.PIPE)
    if done.returncode:
        raise ValueError(f"{stage}: failed; see its output above. To run it alone: nightjar stage {stage}")
    after = digests(stage, root)
    skipped = "didn't change, skipping" in done.stdout
    restored = "is cached - skipping run" in done.stdout
    return Outcome(
        "cached" if skipped else "restored" if restored else "ran",
        after.inputs,
        after.outputs or before.outputs,
    )
