"""Runs in MLflow: what a night and its stages leave behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.deadline import DeadlineError
from tasks.files import write_json, write_rows
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.progress import follow
from tasks.scheduling import diary
from tasks.scheduling.history import Night
from tasks.tracking import mlflow_store, tracker


@pytest.fixture
def client(tracked: Paths) -> Any:
    """MLflow's own client on the workspace's database: what wrote is not what reads."""
    return mlflow_store.open_client(tracked)


def test_a_stage_nests_below_the_night(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """Both runs finish; the stage has its parent, its own params and figures, the night has them all."""
    with (
        tracker.night(tracked, tracked_params, "flow", "tiny") as night_id,
        tracker.stage("sft", tracked, tracked_params, ["sft", "model"]) as run,
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
    assert "policy.iterations" not in stage.data.params
    assert night.data.params["policy.iterations"] == "1"
    assert night.data.params["rollouts.sampling.1.temperature"] == "0.0"
    assert night.data.params["register.max_kl"] == "10.0"
    assert stage.data.metrics["eval_loss"] == night.data.metrics["sft.eval_loss"] == 1.5
    assert stage.data.metrics["wall_time_s"] > 0
    assert [file.path for file in client.list_artifacts(night_id)] == ["params.yaml"]
    assert re.fullmatch(r"night-\d{4}-\d\d-\d\d-\d{4}", night.info.run_name)
    assert stage.info.run_name == night.info.run_name.replace("night-", "sft ")
    assert os.environ.get(tracker.NIGHT_VARIABLE) is None


def test_a_stage_by_itself_has_no_parent(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """`python -m tasks sft`, as dvc.yaml runs it, is a run of its own, and says so."""
    with tracker.stage("sft", tracked, tracked_params) as run:
        assert tracker.current_stage() is run
    tags = client.get_run(run.run_id).data.tags
    assert tags["door"] == "dvc"
    assert "mlflow.parentRunId" not in tags
    with pytest.raises(RuntimeError, match="no stage run is open"):
        tracker.current_stage()


def test_every_step_of_a_long_training_arrives(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """More points than one call takes, each at its own step and with its own value."""
    with tracker.stage("sft", tracked, tracked_params) as run:
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
        tracker.night(tracked, tracked_params, "flow") as night_id,
        tracker.stage("sft", tracked, tracked_params) as run,
    ):
        follow(steps(), "sft", 2)
    night, stage = client.get_run(night_id), client.get_run(run.run_id)
    assert (night.info.status, stage.info.status) == ("FAILED", "FAILED")
    assert stage.data.tags["error"] == "ValueError: loss is nan at step 2"
    assert night.data.tags["stage.sft"] == "failed"
    assert stage.data.metrics["train/loss"] == 2.0


@pytest.mark.parametrize("ending", [KeyboardInterrupt, DeadlineError])
def test_an_interrupted_stage_is_killed_not_failed(
    tracked: Paths, tracked_params: Params, client: Any, ending: type[BaseException]
) -> None:
    """Ctrl-C and a deadline are no errors of the stage."""
    with pytest.raises(ending), tracker.stage("sft", tracked, tracked_params) as run:
        raise ending
    assert client.get_run(run.run_id).info.status == "KILLED"


def test_data_sets_carry_their_digests(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """A stage's inputs stand in its run as MLflow data sets, by path."""
    inputs = {"data/raw": "0123456789abcdef0123456789abcdef.dir", "data/feedback/x.jsonl": "fedcba98"}
    with tracker.stage("validate", tracked, tracked_params, inputs=inputs) as run:
        pass
    found = client.get_run(run.run_id).inputs.dataset_inputs
    assert {each.dataset.name: each.dataset.digest for each in found} == inputs


def test_content_leads_to_the_latest_finished_run_that_made_it(
    tracked: Paths, tracked_params: Params, client: Any
) -> None:
    """Not to a run that failed after writing it, nor to one that made other content at the same path."""
    made = []
    for content in ("aaa", "aaa", "bbb"):
        with tracker.stage("sft", tracked, tracked_params) as run:
            tracker.record_outputs(tracked, run.run_id, {"data/models/sft": content})
        made.append(run.run_id)
    with pytest.raises(ValueError, match="late"), tracker.stage("sft", tracked, tracked_params) as run:  # noqa: PT012
        tracker.record_outputs(tracked, run.run_id, {"data/models/sft": "aaa"})
        raise ValueError("late")
    assert tracker.find_run_by_output(tracked, "data/models/sft", "aaa") == made[1]
    assert tracker.find_run_by_output(tracked, "data/models/sft", "bbb") == made[2]
    assert tracker.find_run_by_output(tracked, "data/models/sft", "ccc") is None
    assert tracker.find_run_by_output(tracked, "data/models/policy", "aaa") is None


def test_a_cached_stage_still_shows_in_the_night(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """With the run that made its data and the figures it had then; unknown data say so."""
    with tracker.stage("sft", tracked, tracked_params) as run:
        tracker.record_outputs(tracked, run.run_id, {"data/models/sft": "aaa"})
    write_json(tracked.metrics("sft"), {"eval_loss": 1.25})
    with tracker.night(tracked, tracked_params, "flow") as night_id:
        assert tracker.record_skipped(tracked, "sft", "cached", {"data/models/sft": "aaa"}) == run.run_id
        assert tracker.record_skipped(tracked, "policy", "restored", {"data/models/policy": "zzz"}) is None
    night = client.get_run(night_id).data
    assert (night.tags["stage.sft"], night.tags["stage.sft.run"]) == ("cached", run.run_id)
    assert (night.tags["stage.policy"], night.tags["stage.policy.run"]) == ("restored", "not in this database")
    assert night.metrics == {"sft.eval_loss": 1.25}


def test_what_a_night_learnt_from_stands_on_its_run(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """The outputs of validate, by path and digest, whether it ran or not; other stages' stay with them."""
    for how in ("ran", "cached"):
        with tracker.night(tracked, tracked_params, "flow") as night_id:
            for stage in ("validate", "sft"):
                made = {f"data/{stage}d/train": how, f"data/{stage}": "else"}
                if how == "cached":
                    tracker.record_skipped(tracked, stage, how, made)
                    continue
                with tracker.stage(stage, tracked, tracked_params) as run:
                    tracker.record_outputs(tracked, run.run_id, made)
        found = client.get_run(night_id).inputs.dataset_inputs
        assert {each.dataset.name: each.dataset.digest for each in found} == {"data/validated/train": how}


@pytest.mark.parametrize("cached", [False, True])
def test_samples_and_plots_can_be_looked_at(tracked: Paths, tracked_params: Params, client: Any, cached: bool) -> None:
    """Completions become tables, pictures and curves artifacts, other files do not; the night has them too.

    Of the stage's run the evaluation's rows are kept whole; the night has tables and pictures even where the stage did
    not run. The intervals of mean scores come from the samples: of two prompts with means ½ and 1½ a resample has a
    mean of ½, 1 or 1½, with chances ¼, ½ and ¼, so these are the ends of 95 %.
    """
    write_rows(tracked.evaluation / "completions.jsonl", [{"prompt": "a", "references": ["b", "c"], "n": 1}])
    texts = {"texts": ["x", "y"], "scores": {"gold": [0.0, 1.0]}}
    better = {"texts": ["v", "w"], "scores": {"gold": [1.0, 2.0]}}
    rows = [{"id": "1", "prompt": "a", "sft": texts, "policy": texts}]
    rows.append({"id": "2", "prompt": "b", "sft": texts, "policy": better})
    write_rows(tracked.evaluation / "samples.jsonl", rows)
    for file in (tracked.plots("evaluate") / "scores.png", tracked.plots("evaluate") / "lengths.csv"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    (tracked.evaluation / "weights.bin").write_bytes(b"x")
    with tracker.night(tracked, tracked_params, "flow") as night_id:
        if cached:
            tracker.record_skipped(tracked, "evaluate", "cached", {})
        else:
            with tracker.stage("evaluate", tracked, tracked_params) as run:
                pass

    def kept(run_id: str, folder: str) -> set[str]:
        return {Path(file.path).name for file in client.list_artifacts(run_id, folder)}

    def table(run_id: str, name: str) -> Any:
        return json.loads(Path(client.download_artifacts(run_id, f"tables/{name}.json")).read_text())

    expected = {"columns": ["prompt", "references", "n"], "data": [["a", '["b", "c"]', 1]]}
    assert kept(night_id, "plots/evaluate") == {"scores.png"}
    assert table(night_id, "completions") == expected
    figures = client.get_run(night_id).data.metrics
    assert (figures["evaluate.policy.gold_low"], figures["evaluate.policy.gold_high"]) == (0.5, 1.5)
    assert (figures["evaluate.sft.gold_low"], figures["evaluate.sft.gold_high"]) == (0.5, 0.5)
    if not cached:
        assert kept(run.run_id, "plots") == {"scores.png", "lengths.csv"}
        assert kept(run.run_id, "evaluation") == {"completions.jsonl", "samples.jsonl"}
        assert table(run.run_id, "completions") == expected
        samples = table(run.run_id, "samples")
        assert samples["columns"] == ["id", "prompt", "model", "text", "gold"]
        assert samples["data"][-2:] == [["2", "b", "policy", "v", 1.0], ["2", "b", "policy", "w", 2.0]]
        assert client.get_run(run.run_id).data.metrics["policy.gold_high"] == 1.5


def test_a_night_says_how_it_ended(tracked: Paths, tracked_params: Params, client: Any) -> None:
    """In tags, and in words on its page; the champion is named as far as there is one."""
    write_json(tracked.metrics("evaluate"), {"sft.rougeL": 0.5, "policy.rougeL": 0.75})
    now = datetime(2026, 11, 21, 2, tzinfo=UTC)
    for version in (None, 1):
        with tracker.night(tracked, tracked_params, "flow", name="night-x") as night_id:
            pass
        if version:
            client.create_registered_model("nightjar-policy")
            client.create_model_version("nightjar-policy", "file:///nowhere")
            client.set_registered_model_alias("nightjar-policy", "champion", "1")
        ended = Night(name="night-x", started=now, ended=now, outcome="promoted", why="it is better",
                      policy_version=version, run_id=night_id)  # fmt: skip
        diary.conclude(tracked, tracked_params, ended)
        tags = client.get_run(night_id).data.tags
        assert (tags["outcome"], tags["why"]) == ("promoted", "it is better")
        assert tags["champion"] == ("v1" if version else "none yet")
        assert tags.get("policy_version") == ("v1" if version else None)
        assert tags["mlflow.note.content"].startswith("**promoted**: it is better\n")
        assert ("| policy | 0.7500 |" in tags["mlflow.note.content"]) is bool(version)


def test_the_machine_is_watched_while_a_stage_works(
    tracked: Paths, tracked_params: Params, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own figures of processor and memory arrive in the stage's run, and the thread ends with it."""
    monkeypatch.setattr(mlflow_store, "SYSTEM_METRICS_EVERY_S", 0.01)

    def points(run_id: str) -> int:
        return len(client.get_metric_history(run_id, "system/cpu_utilization_percentage"))

    with tracker.stage("sft", tracked, tracked_params) as run:
        while points(run.run_id) < 2:
            time.sleep(0.02)
    assert "system/system_memory_usage_megabytes" in client.get_run(run.run_id).data.metrics
    assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
    with tracker.stage("sft", tracked, tracked_params) as run:
        assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]


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
    with tracker.stage("rollouts", tracked, tracked_params) as run:
        pass
    table = json.loads(Path(client.download_artifacts(run.run_id, "tables/rollouts.json")).read_text())
    assert table["columns"] == ["prompt", "text", "finish_reason", "tokens", "logprob", "seed"]
    assert table["data"] == [["p", "t", "eos", 3, -1.5, 5]] * 2


def test_a_bare_mlflow_command_in_the_workspace_sees_the_runs(tracked: Paths, tracked_params: Params) -> None:
    """Without any option or variable: MLflow then opens mlflow.db in the folder it is started in."""
    with tracker.stage("sft", tracked, tracked_params) as run:
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
        "import sys, tasks.tracking.tracker, tasks.register, tasks.reports.summary; "
        "print(sorted({'mlflow', 'torch', 'pandas', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
