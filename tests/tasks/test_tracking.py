"""Runs in MLflow: what a night and its stages leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import mlflow_store, tracking
from tasks.files import write_json, write_rows
from tasks.params import Params
from tasks.paths import Paths
from tasks.progress import follow


@pytest.fixture
def client(tracked: Paths) -> Any:
    """MLflow's own client on the workspace's database: what wrote is not what reads."""
    return mlflow_store.open_client(tracked)


def test_a_stage_nests_below_the_night(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """Both runs finish; the stage has its parent, its own params and figures, the night has them all."""
    with (
        tracking.night(tracked, tracked_params, "flow", "tiny") as night_id,
        tracking.stage("sft", tracked, tracked_params, ["sft", "model"]) as run,
    ):
        run.log({"eval_loss": 1.5})
    night, stage = client.get_run(night_id), client.get_run(run.run_id)
    assert (night.info.status, stage.info.status) == ("FINISHED", "FINISHED")
    assert stage.data.tags["mlflow.parentRunId"] == night_id
    assert (night.data.tags["preset"], stage.data.tags["door"]) == ("tiny", "flow")
    assert night.data.tags["stage.sft"] == "ran"
    assert night.data.tags["stage.sft.run"] == run.run_id
    assert stage.data.params["sft.steps"] == "3"
    assert stage.data.params["model.config.model_type"] == "llama"
    assert "ppo.iterations" not in stage.data.params
    assert night.data.params["ppo.iterations"] == "1"
    assert night.data.params["rollouts.sampling.1.temperature"] == "0.0"
    assert night.data.params["register.max_kl"] == "10.0"
    assert stage.data.metrics["eval_loss"] == night.data.metrics["sft.eval_loss"] == 1.5
    assert stage.data.metrics["wall_time_s"] > 0
    assert [file.path for file in client.list_artifacts(night_id)] == ["params.yaml"]
    assert os.environ.get(tracking.NIGHT_VARIABLE) is None


def test_a_stage_by_itself_has_no_parent(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """`python -m tasks sft`, as dvc.yaml runs it, is a run of its own, and says so."""
    with tracking.stage("sft", tracked, tracked_params) as run:
        assert tracking.current_stage() is run
    tags = client.get_run(run.run_id).data.tags
    assert tags["door"] == "dvc"
    assert "mlflow.parentRunId" not in tags
    with pytest.raises(RuntimeError, match="no stage run is open"):
        tracking.current_stage()


def test_every_step_of_a_long_training_arrives(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """More points than one call takes, each at its own step and with its own value."""
    with tracking.stage("sft", tracked, tracked_params) as run:
        follow(({"loss": 1 / step, "grad": float(step)} for step in range(1, 1201)), "sft", 1200)
    history = client.get_metric_history(run.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(step, 1 / step) for step in range(1, 1201)]
    assert len(client.get_metric_history(run.run_id, "train/grad")) == 1200


def test_a_failed_stage_fails_its_run_and_the_night(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """The error itself comes out; its text and the figures up to it stay in the run."""

    def steps() -> Any:
        yield {"loss": 2.0}
        raise ValueError("loss is nan at step 2")

    with (
        pytest.raises(ValueError, match="nan at step 2"),
        tracking.night(tracked, tracked_params, "flow") as night_id,
        tracking.stage("sft", tracked, tracked_params) as run,
    ):
        follow(steps(), "sft", 2)
    night, stage = client.get_run(night_id), client.get_run(run.run_id)
    assert (night.info.status, stage.info.status) == ("FAILED", "FAILED")
    assert stage.data.tags["error"] == "ValueError: loss is nan at step 2"
    assert night.data.tags["stage.sft"] == "failed"
    assert stage.data.metrics["train/loss"] == 2.0


def test_an_interrupted_stage_is_killed_not_failed(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """Ctrl-C is no error of the stage."""
    with pytest.raises(KeyboardInterrupt), tracking.stage("sft", tracked, tracked_params) as run:
        raise KeyboardInterrupt
    assert client.get_run(run.run_id).info.status == "KILLED"


def test_data_sets_carry_their_digests(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """A stage's inputs stand in its run as MLflow data sets, by path."""
    inputs = {"data/raw": "0123456789abcdef0123456789abcdef.dir", "data/feedback/x.jsonl": "fedcba98"}
    with tracking.stage("validate", tracked, tracked_params, inputs=inputs) as run:
        pass
    found = client.get_run(run.run_id).inputs.dataset_inputs
    assert {each.dataset.name: each.dataset.digest for each in found} == inputs


def test_content_leads_to_the_latest_finished_run_that_made_it(
    tracked: Paths, tracked_params: Params, client: Any
) -> None:
    """Not to a run that failed after writing it, nor to one that made other content at the same path."""
    made = []
    for content in ("aaa", "aaa", "bbb"):
        with tracking.stage("sft", tracked, tracked_params) as run:
            tracking.record_outputs(tracked, run.run_id, {"data/models/sft": content})
        made.append(run.run_id)
    with pytest.raises(ValueError, match="late"), tracking.stage("sft", tracked, tracked_params) as run:  # noqa: PT012
        tracking.record_outputs(tracked, run.run_id, {"data/models/sft": "aaa"})
        raise ValueError("late")
    assert tracking.find_run_by_output(tracked, "data/models/sft", "aaa") == made[1]
    assert tracking.find_run_by_output(tracked, "data/models/sft", "bbb") == made[2]
    assert tracking.find_run_by_output(tracked, "data/models/sft", "ccc") is None
    assert tracking.find_run_by_output(tracked, "data/models/policy", "aaa") is None


def test_a_cached_stage_still_shows_in_the_night(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """With the run that made its data and the figures it had then; unknown data say so."""
    with tracking.stage("sft", tracked, tracked_params) as run:
        tracking.record_outputs(tracked, run.run_id, {"data/models/sft": "aaa"})
    write_json(tracked.metrics("sft"), {"eval_loss": 1.25})
    with tracking.night(tracked, tracked_params, "flow") as night_id:
        assert tracking.record_skipped(tracked, "sft", "cached", {"data/models/sft": "aaa"}) == run.run_id
        assert tracking.record_skipped(tracked, "ppo", "restored", {"data/models/policy": "zzz"}) is None
    night = client.get_run(night_id).data
    assert (night.tags["stage.sft"], night.tags["stage.sft.run"]) == ("cached", run.run_id)
    assert (night.tags["stage.ppo"], night.tags["stage.ppo.run"]) == ("restored", "not in this database")
    assert night.metrics == {"sft.eval_loss": 1.25}


def test_samples_and_plots_can_be_looked_at(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """Completions become a table; pictures, curves and pages become artifacts, other files do not."""
    write_rows(tracked.evaluation / "completions.jsonl", [{"prompt": "a", "references": ["b", "c"], "n": 1}])
    for file in (tracked.plots("evaluate") / "scores.png", tracked.evaluation / "completions.html"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    (tracked.evaluation / "weights.bin").write_bytes(b"x")
    with tracking.stage("evaluate", tracked, tracked_params) as run:
        pass
    plots = {Path(file.path).name for file in client.list_artifacts(run.run_id, "plots")}
    assert plots == {"scores.png", "completions.html"}
    table = json.loads(Path(client.download_artifacts(run.run_id, "tables/completions.json")).read_text())
    assert table == {"columns": ["prompt", "references", "n"], "data": [["a", '["b", "c"]', 1]]}


def test_rollouts_become_a_table_of_completions(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """One row per completion."""
    completion = {
        "text": "t",
        "tokens": 3,
        "finish_reason": "eos",
        "seed": 5,
        "sampling": {},
        "logprob": -1.5,
    }
    write_rows(tracked.rollouts, [{"prompt_id": "1", "prompt": "p", "completions": [completion] * 2}])
    with tracking.stage("rollouts", tracked, tracked_params) as run:
        pass
    table = json.loads(Path(client.download_artifacts(run.run_id, "tables/rollouts.json")).read_text())
    assert table["columns"] == ["prompt", "text", "finish_reason", "tokens", "logprob", "seed"]
    assert table["data"] == [["p", "t", "eos", 3, -1.5, 5]] * 2


def test_a_bare_mlflow_command_in_the_workspace_sees_the_runs(tracked: Paths, tracked_params: Params) -> None:
    """Without any option or variable: MLflow then opens mlflow.db in the folder it is started in."""
    with tracking.stage("sft", tracked, tracked_params) as run:
        pass
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_T")}
    script = "import mlflow; print(*mlflow.search_runs(search_all_experiments=True)['run_id'])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tracked.root, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == [run.run_id], done.stderr


def test_importing_the_tracker_imports_nothing_heavy() -> None:
    """Help, params and status commands import these modules too."""
    script = (
        "import sys, tasks.tracking, tasks.register, tasks.summary; "
        "print(sorted({'mlflow', 'torch', 'pandas', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
