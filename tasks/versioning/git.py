"""Git, through its command: the state of the checkout, and commits beside it that change nothing in it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

AUTHOR = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (("NAME", "Nightjar"), ("EMAIL", "nightjar@localhost"))
}
"""Who signs a night's commit: no person, and nobody has to be configured."""


def run(root: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """What `git` prints in `root`; raises ValueError with what it says when it refuses or is not installed."""
    command = ["git", *arguments]
    try:
        done = subprocess.run(
            command, cwd=root, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ValueError("git: no such command; install it, or work without experiments") from None
    if done.returncode:
        raise ValueError(f"{root}: git {arguments[0]} says: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def is_checkout(root: Path) -> bool:
    """Whether a folder is a git checkout of its own (a worktree's `.git` is a file)."""
    return (root / ".git").exists()


def state(root: Path) -> dict[str, str]:
    """`{"commit", "dirty"}` of the checkout at `root`, or `{}` where there is no git or no commit.

    Dirty means that tracked code or params differ from the commit; dvc.lock and data/ do not count, for the
    night itself rewrites them.
    """
    excluded = (":(exclude)dvc.lock", ":(exclude)data")
    try:
        commit = head(root)
        changes = run(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *excluded)
    except ValueError:
        return {}
    return {"commit": commit, "dirty": "yes" if changes else "no"}


def head(root: Path) -> str:
    """The commit that is checked out; raises ValueError where there is none."""
    try:
        return run(root, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except ValueError:
        raise ValueError(
            f"{root}: nothing is committed there yet; commit first: git add -A && git commit -m start"
        ) from None


def commit_aside(home: Path, workspace: Path, parent: str, additions: Iterable[Sequence[str]], message: str) -> str:
    """Commits what a workspace holds now, as a child of `parent` that no branch knows; returns the commit.

    Works on an index of its own: the branch, the index and the working tree stay as they are, whatever happens.

    Args:
        home: the checkout whose repository gets the commit.
        workspace: the folder that is committed: `home` itself, or a copy of it that need not know git.
        parent: the commit that the workspace started from; what is not added is as it was there.
        additions: what to add, as arguments of `git add`.
    """
    with tempfile.TemporaryDirectory(prefix="nightjar-index-") as folder:
        environment = {
            **AUTHOR,
            "GIT_DIR": run(home, "rev-parse", "--absolute-git-dir"),
            "GIT_WORK_TREE": str(workspace),
            "GIT_INDEX_FILE": str(Path(folder) / "index"),
        }
        run(workspace, "read-tree", parent, environment=environment)
        for arguments in additions:
            run(workspace, "add", *arguments, environment=environment)
        tree = run(workspace, "write-tree", environment=environment)
        return run(workspace, "commit-tree", tree, "-p", parent, "-m", message, environment=environment)
