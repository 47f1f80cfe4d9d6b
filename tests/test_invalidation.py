"""What a changed line of code runs again: every file of the three layers is touched in turn, and DVC is asked."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tasks import graph
from tasks.stages import VERSIONED
from tasks.versioning import dvc_repo

NOTHING: tuple[str, ...] = ()
MODELS = ("sft", "rollouts", "reward", "policy", "evaluate")
MAY_RERUN: dict[str, tuple[str, ...]] = {
    "flows": NOTHING,
    "tasks": NOTHING,
    **{f"tasks/{stage}.py": (stage,) for stage in VERSIONED},
}
"""By room (a folder or a file; the longest name counts), the stages that a change in it may run again."""


@pytest.fixture
def house(tmp_path: Path, repository: Path, toy_module: ModuleType) -> Path:
    """A workspace with this project's code and graph, every stage up to date, whose outputs are a line each."""
    root = tmp_path / "house"
    for layer in graph.LAYERS:
        shutil.copytree(repository / layer, root / layer, ignore=shutil.ignore_patterns("__pycache__"))
    notes = [f"data/{folder}/README.md" for folder in ("source", "feedback", "champion")]
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", "data/.gitignore", "dvc.yaml", "params.yaml", *notes):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(repository / name, root / name)
    for stage in VERSIONED:
        dvc_repo.reproduce(stage, root, lambda stage=stage: toy_module.run(stage, root))
    assert dvc_repo.stale(root) == []
    return root


def test_a_file_reruns_what_its_room_may_rerun(house: Path) -> None:
    """No stage more; and the table says no more than is true."""
    seen: dict[str, set[str]] = {room: set() for room in MAY_RERUN}
    excess = {}
    for file in sorted(file for layer in graph.LAYERS for file in (house / layer).rglob("*.py")):
        name = file.relative_to(house).as_posix()
        room = max((room for room in MAY_RERUN if f"{name}/".startswith(f"{room}/")), key=len)
        text = file.read_text(encoding="utf-8")
        file.write_text(f"{text}# touched\n", encoding="utf-8")
        stale = set(dvc_repo.stale(house))
        file.write_text(text, encoding="utf-8")
        seen[room] |= stale
        if more := stale - set(MAY_RERUN[room]):
            excess[name] = more
    assert not excess
    assert {room: set(stages) for room, stages in MAY_RERUN.items()} == seen
