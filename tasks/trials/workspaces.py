"""A candidate's workspace: the same code and data, a params.yaml of its own, and DVC's cache shared.

What candidates have in common, also with the workspace that they belong to, is made once and restored for the others.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from tasks import graph
from tasks.files import write_text
from tasks.params.night import UNCHANGED
from tasks.paths import Paths
from tasks.stages import STAGES
from tasks.trials.candidates import Candidate
from tasks.versioning import dvc_repo, git

KEPT = ("data", "nights", ".dvc", "dvc.lock")
"""What a workspace keeps from one time to the next; the rest is copied anew."""


def of_night(paths: Paths, name: str) -> Paths:
    """Where the candidate of this name trains in a night.

    params.yaml as it is trains in the workspace itself: `dvc repro` there goes on agreeing with it, whichever goes on.
    """
    return paths if name == UNCHANGED else paths.workspace_of(name)


def aside(paths: Paths, name: str) -> Paths:
    """Where a candidate trains aside from nights: its runs and reports are no night's."""
    return Paths(paths.nights / "seeds" / name)


def prepare(paths: Paths, workspace: Paths, candidate: Candidate) -> None:
    """Makes a candidate's workspace, or brings the one it had up to date: code, data, its own params.yaml.

    What it trained before stays, so that one that was cut off goes on from there.
    """
    workspace.root.mkdir(parents=True, exist_ok=True)
    for old in workspace.root.iterdir():
        if old.name not in KEPT:
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for name in _files(paths.root):
        (workspace.root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(paths.root / name, workspace.root / name)
    for source, target in zip(paths.external, workspace.external, strict=True):
        shutil.rmtree(target, ignore_errors=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_link)
    write_text(workspace.root / "params.yaml", candidate.text)
    dvc_repo.share_cache(paths.root, workspace.root)


def remove_others(paths: Paths, names: Collection[str]) -> None:
    """Removes the workspaces of a night's candidates that have none of these names."""
    folder = paths.workspace_of(UNCHANGED).root.parent
    for old in folder.iterdir() if folder.is_dir() else ():
        if old.name not in names:
            shutil.rmtree(old)


def _files(root: Path) -> Iterator[str]:
    """What a workspace is made of beside its data: in git all that it does not ignore, else what the stages are."""
    if git.is_checkout(root):
        listed = git.run(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        names = {name for name in listed if name and not name.startswith("data/")} | {"data/.gitignore"}
    else:
        names = {file for stage in STAGES for file in graph.code_of(root, stage)}
        names |= {"dvc.yaml", ".dvcignore", ".dvc/config"}
    return (name for name in sorted(names - {"dvc.lock"}) if (root / name).is_file())


def _link(source: str, target: str) -> None:
    """A second name for a file, which nobody writes to; a copy where the file system has no such thing."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
