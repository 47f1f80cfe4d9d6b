"""Git, asked through its command."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tasks.versioning.git import state


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=toy", "-c", "user.email=toy@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def test_dirty_means_that_code_or_params_changed(tmp_path: Path) -> None:
    """What a night itself rewrites, dvc.lock and data/, does not make a checkout dirty."""
    assert state(tmp_path) == {}
    git(tmp_path, "init", "-q")
    (tmp_path / "data").mkdir()
    for name in ("dvc.lock", "data/metrics.json", "params.yaml"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "dvc.lock").write_text("2")
    (tmp_path / "data/metrics.json").write_text("2")
    (tmp_path / "untracked").write_text("2")
    found = state(tmp_path)
    assert found["dirty"] == "no"
    assert len(found["commit"]) == 40
    (tmp_path / "params.yaml").write_text("2")
    assert state(tmp_path)["dirty"] == "yes"
