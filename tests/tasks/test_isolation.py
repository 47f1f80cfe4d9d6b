"""Each stage in a workspace that holds its declared inputs alone: it needs no more, and writes what it declares."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.digests import digest
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.runner import run_stage
from tasks.stages import STAGES, VERSIONED, files


@pytest.mark.parametrize("stage", VERSIONED)
def test_a_stage_needs_its_declared_inputs_alone(
    small_night: Paths, night_params: Params, tmp_path: Path, stage: str
) -> None:
    """From copies of its inputs it makes, bit for bit, what the whole night made, and nothing elsewhere."""
    alone = Paths(tmp_path)
    for name in STAGES[stage].reads:
        source, target = small_night.root / name, alone.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        elif source.is_file():
            shutil.copyfile(source, target)
    run_stage(stage, alone, night_params)
    made = files(stage, alone)
    for name, path in files(stage, small_night).outputs.items():
        assert digest(made.outputs[name]) == digest(path), name
    assert alone.metrics(stage).read_bytes() == small_night.metrics(stage).read_bytes()
    declared = (*made.inputs.values(), *made.outputs.values(), *made.aside.values(), alone.metrics(stage))
    written = (file for file in alone.root.rglob("*") if file.is_file())
    assert [file for file in written if not any(file.is_relative_to(path) for path in declared)] == []


def test_register_needs_its_declared_inputs_alone(registered: Paths) -> None:
    """The workspace that it ran in held them, params.yaml and MLflow's database, and nothing else."""
    held = {file.relative_to(registered.root).as_posix() for file in registered.data.rglob("*") if file.is_file()}
    declared = STAGES["register"].reads
    assert {name for name in held if not any(f"{name}/".startswith(f"{path}/") for path in declared)} == set()
