"""Stages tracked and versioned: what runs when, at either door, and what is said of a missing input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import digests, runner
from tasks.params.whole import Params, read_params
from tasks.paths import Paths
from tasks.stages import STAGES, VERSIONED
from tasks.tracking import mlflow_store, tracker


@pytest.fixture
def params(toy: Path) -> Params:
    """The toy's params."""
    return read_params(toy / "params.yaml")


def test_a_missing_input_names_the_stage_that_writes_it(toy: Path, params: Params) -> None:
    """Before anything runs or is tracked."""
    with pytest.raises(FileNotFoundError, match=r"data/raw: .* ingest writes it: .* nightjar stage ingest"):
        runner.update_stage("validate", Paths(toy), params)
    assert not (toy / "mlruns").exists()


def test_a_missing_source_folder_is_to_be_made(toy: Path, params: Params) -> None:
    """No stage writes it, so the remedy is another."""
    shutil.rmtree(toy / "data/source")
    with pytest.raises(FileNotFoundError, match=r"data/source: .* mkdir -p data/source"):
        runner.update_stage("ingest", Paths(toy), params)


def test_a_night_at_one_door_is_up_to_date_at_the_other(
    toy: Path, params: Params, toy_night: Callable[[], list[str]], dvc_repro: Callable[[Path], str]
) -> None:
    """After this door `dvc repro` runs nothing; after a change and `dvc repro`, this door only registers."""
    paths = Paths(toy)
    assert runner.pending(paths, params) == list(STAGES)
    statuses = [runner.update_stage(stage, paths, params).status for stage in STAGES]
    assert statuses == ["ran"] * len(STAGES)
    assert toy_night() == list(STAGES)
    assert runner.pending(paths, params) == []
    assert "Data and pipelines are up to date." in dvc_repro(toy)

    (toy / "tasks/rank.py").write_text("# another line\n")
    assert runner.pending(paths, params) == ["rank", "register"]
    dvc_repro(toy)
    assert toy_night() == ["rank", "pairs", "reward", "policy", "evaluate", "report"]
    assert runner.pending(paths, params) == ["register"]
    statuses = [runner.update_stage(stage, paths, params).status for stage in STAGES]
    assert statuses == ["cached"] * len(VERSIONED) + ["ran"]
    assert toy_night() == ["register"]


def test_data_lead_back_to_the_run_that_made_them(
    toy: Path, params: Params, toy_night: Callable[[], list[str]]
) -> None:
    """A run is tagged with its outputs' digests; a night that skips the stage names that run."""
    paths = Paths(toy)
    outcome = runner.update_stage("ingest", paths, params)
    made = digests.digest(toy / "data/raw")
    run_id = tracker.find_run_by_output(paths, "data/raw", made)
    assert run_id is not None
    assert outcome.outputs["data/raw"] == made
    with tracker.night(paths, params, "flow") as night_id:
        assert runner.update_stage("ingest", paths, params).status == "cached"
    tags = mlflow_store.open_client(paths).get_run(night_id).data.tags
    assert (tags["stage.ingest"], tags["stage.ingest.run"]) == ("cached", run_id)
    assert toy_night() == ["ingest"]


def test_changed_gates_register_again(toy: Path, params: Params, toy_night: Callable[[], list[str]]) -> None:
    """A night with other gates has one thing to do."""
    paths = Paths(toy)
    for stage in STAGES:
        runner.update_stage(stage, paths, params)
    with (toy / "params.yaml").open("a") as file:
        file.write("register: {max_kl: 5.0}\n")
    assert runner.pending(paths, read_params(toy / "params.yaml")) == ["register"]
