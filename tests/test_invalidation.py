"""What a changed line of code runs again: every file of the three layers is touched in turn, and DVC is asked."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from tasks import graph
from tasks.stages import VERSIONED
from tasks.versioning import dvc_repo

NOTHING: tuple[str, ...] = ()
DATA = ("ingest", "validate", "rank")
MODELS = ("sft", "rollouts", "reward", "policy", "evaluate")
TRAINING = ("sft", "reward", "policy")
LEARNING = tuple(stage for stage in VERSIONED if stage != "report")
MAY_RERUN: dict[str, tuple[str, ...]] = {
    "flows": NOTHING,
    # A room that is not named below runs nothing again: registry, trials, tracking, scheduling, the runner ...
    "tasks": NOTHING,
    **{f"tasks/{stage}.py": (stage,) for stage in VERSIONED},
    **{f"tasks/{file}.py": VERSIONED for file in ("__init__", "files", "stage_files")},
    **{f"tasks/{room}": ("report",) for room in ("reports", "figures.py", "roles.py")},
    **{f"tasks/params/{stage}.py": (stage,) for stage in ("ingest", "validate", "rank", "pairs", "evaluate")},
    "tasks/params/__init__.py": (*DATA, "pairs", "evaluate"),
    "tasks/params/splits.py": ("validate", "pairs"),
    "tasks/digests.py": ("policy",),
    "tasks/terminal.py": ("report",),
    "tasks/sources": DATA,
    "tasks/validation": ("validate", "pairs"),
    "tasks/training": ("sft", "policy", "evaluate"),
    "tasks/training/__init__.py": (*TRAINING, "evaluate"),
    "tasks/training/bad_batches.py": NOTHING,
    "tasks/evaluation": ("evaluate",),
    "rlhf": NOTHING,
    **{f"rlhf/settings/{stage}.py": (stage,) for stage in ("sft", "rollouts", "reward", "policy")},
    **{f"rlhf/settings/{shared}.py": TRAINING for shared in ("optim", "adapters")},
    "rlhf/settings/model.py": ("validate", *MODELS),
    **{f"rlhf/{file}.py": VERSIONED for file in ("__init__", "blank")},
    **{f"rlhf/{file}.py": LEARNING for file in ("records", "settings/__init__", "settings/base")},
    "rlhf/corpus.py": ("ingest", "rank", "policy", "evaluate"),
    "rlhf/annotator.py": ("rank", "policy", "evaluate"),
    "rlhf/habits.py": ("validate",),
    "rlhf/preferences.py": ("validate", "rank", "pairs"),
    "rlhf/tokenizers.py": ("validate", "pairs", *MODELS),
    **{f"rlhf/{file}.py": MODELS for file in ("models", "endings", "finite", "soft_prompt")},
    **{f"rlhf/{file}.py": MODELS for file in ("batches", "heads", "logprobs", "masking")},
    **{f"rlhf/{room}": MODELS for room in ("fast", "drawing")},
    "rlhf/generation": ("rollouts", "reward", "policy", "evaluate"),
    "rlhf/sft.py": ("sft",),
    "rlhf/demonstrations.py": ("sft", "policy", "evaluate"),
    **{f"rlhf/{file}.py": TRAINING for file in ("optim", "adapters", "memory")},
    "rlhf/reward": ("reward", "policy", "evaluate"),
    **{f"rlhf/{room}": ("policy",) for room in ("algorithms.py", "policy", "ppo", "dpo")},
    "rlhf/evaluation": ("policy", "evaluate"),
    **{f"rlhf/evaluation/{file}.py": ("reward", "policy", "evaluate") for file in ("__init__", "text")},
    "rlhf/evaluation/intervals.py": ("reward", "evaluate"),
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
        dvc_repo.reproduce(stage, root, partial(toy_module.run, stage, root))
    assert dvc_repo.stale(root) == []
    return root


def test_a_file_reruns_what_its_room_may_rerun(house: Path) -> None:
    """No stage more; and the table says no more than is true.

    A room's files are touched together: what they make stale is what each of them does. Only where that is too much
    are they touched one by one, to name the file.
    """
    rooms: dict[str, list[Path]] = {room: [] for room in MAY_RERUN}
    for file in sorted(file for layer in graph.LAYERS for file in (house / layer).rglob("*.py")):
        name = f"{file.relative_to(house).as_posix()}/"
        rooms[max((room for room in MAY_RERUN if name.startswith(f"{room}/")), key=len)].append(file)
    nothing = [file for room, files in rooms.items() if MAY_RERUN[room] == NOTHING for file in files]
    assert _stale_after(house, nothing) == set()
    excess, lacking = dict[str, set[str]](), dict[str, set[str]]()
    for room, allowed in MAY_RERUN.items():
        if allowed != NOTHING:
            stale = _stale_after(house, rooms[room])
            lacking |= {room: missed} if (missed := set(allowed) - stale) else {}
            for file in rooms[room] if stale - set(allowed) else ():
                more = _stale_after(house, [file]) - set(allowed)
                excess |= {file.relative_to(house).as_posix(): more} if more else {}
    assert not excess
    assert not lacking, "the table allows what no file of the room can run again"


def _stale_after(house: Path, files: list[Path]) -> set[str]:
    """The stages that DVC would run again once a comment is added to these files, which are then as they were."""
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    for file, text in texts.items():
        file.write_text(f"{text}# touched\n", encoding="utf-8")
    stale = set(dvc_repo.stale(house))
    for file, text in texts.items():
        file.write_text(text, encoding="utf-8")
    return stale
