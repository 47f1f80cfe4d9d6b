"""The night as a flow: order, skipping, errors, and what Prefect shows of it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from tasks import deadline, environment, progress, runner
from tasks.params.whole import read_params
from tasks.paths import Paths
from tasks.scheduling import history, lock
from tasks.stages import STAGES, VERSIONED


def shown(flow_run_id: UUID | None) -> tuple[list[str], dict[str, str]]:
    """What Prefect's database holds of a night: its task runs' names without their numbers, and artifacts."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        chosen = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        runs = client.read_task_runs(flow_run_filter=chosen)
        artifacts = client.request("POST", "/artifacts/latest/filter", json={}).json()
    names = sorted(run.name.rpartition("-")[0] for run in runs)
    return names, {artifact["key"]: artifact["data"] for artifact in artifacts}


def test_the_night_runs_what_is_due_and_dvc_agrees(
    toy: Path,
    prefect: None,
    toy_night: Callable[[], list[str]],
    dvc_repro: Callable[[Path], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """First all stages, in order, one line each; then, after a change, that stage and what depends on it.

    Prefect shows a task run per stage under the stage's name, and the summary and the canaries as artifacts.
    """
    from flows.night import night

    state = night(str(toy), return_state=True)
    assert state.result() == dict.fromkeys(STAGES, "ran")
    assert toy_night() == list(STAGES)
    names, artifacts = shown(state.state_details.flow_run_id)
    assert names == sorted(STAGES)
    assert "0.6250" in artifacts["summary"]
    assert "mlflow ui" in artifacts["links"]
    assert "- difference: sings **well**" in artifacts["canaries"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [[name, "ran"] for name in STAGES]
    assert lines[-1].endswith(": not promoted: it is a toy")
    assert "Data and pipelines are up to date." in dvc_repro(toy)

    [first] = history.read(Paths(toy))
    assert (first.outcome, first.policy_version) == ("not promoted", 3)
    again = night(str(toy), return_state=True)
    assert again.result() == dict.fromkeys(STAGES, "cached")
    assert (again.name, again.message) == ("Nothing new", f"nothing new since {first.name}: nothing to do")
    assert toy_night() == []

    (toy / "tasks/reward.py").write_text("# another line\n")
    due = ["reward", "policy", "evaluate", "report", "register"]
    assert night(str(toy)) == {name: "ran" if name in due else "cached" for name in STAGES}
    assert toy_night() == due


def test_a_stage_that_refuses_stops_the_night(
    toy: Path,
    prefect: None,
    toy_night: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Its own error comes out, nothing after it runs, no traceback is printed, and Prefect shows what to do.

    The next night goes on from there; so does the one after a deadline, which ends in good order.
    """
    from flows.night import night

    good = runner.run_stage

    def refuse(stage: str, *given: object) -> dict[str, float]:
        if stage == "rank":
            raise ValueError("data/feedback/x.jsonl:3: not JSON")
        return good(stage, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "run_stage", refuse)
    state = night(str(toy), return_state=True)
    with pytest.raises(ValueError, match=r"x\.jsonl:3: not JSON"):
        state.result()
    assert toy_night() == ["ingest", "validate", "sft", "rollouts"]
    assert "Traceback" not in "".join(capfd.readouterr())
    failure = shown(state.state_details.flow_run_id)[1]["failure"]
    assert "failed in `rank`" in failure
    assert "ValueError: data/feedback/x.jsonl:3: not JSON" in failure
    [failed] = history.read(Paths(toy))
    assert (failed.outcome, failed.why) == ("failed", "rank: data/feedback/x.jsonl:3: not JSON")

    def dawdle(stage: str, *given: object) -> dict[str, float]:
        if stage == "rank":
            monkeypatch.setenv(deadline.VARIABLE, "0")
        return good(stage, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "run_stage", dawdle)
    state = night(str(toy), return_state=True)
    assert state.result() == dict.fromkeys(["ingest", "validate", "sft", "rollouts"], "cached") | {"rank": "ran"}
    assert (state.name, state.message) == (
        "Deadline",
        "night.deadline_minutes is over before pairs; the next night resumes there",
    )
    monkeypatch.delenv(deadline.VARIABLE)
    monkeypatch.setattr(runner, "run_stage", good)
    monkeypatch.setattr("flows.night.publish_summary", lambda paths: None)
    third: Any = night(str(toy))
    assert list(third.values()) == ["cached"] * 5 + ["ran"] * 6
    assert [past.outcome for past in history.read(Paths(toy))] == ["failed", "deadline", "not promoted"]


def test_what_a_stage_warns_of_is_printed_and_in_prefects_log(
    toy: Path,
    prefect: None,
    toy_night: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whoever reads the log in the morning sees it, at its level, without what would steer a terminal."""
    from prefect.client.orchestration import get_client
    from prefect.logging.handlers import APILogHandler

    from flows.night import night

    good = runner.run_stage

    def warn(stage: str, *given: object) -> dict[str, float]:
        if stage == "validate":
            progress.warn("five rows are bad, such as \x1b[31mred")
            progress.say("and so on")
        return good(stage, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "run_stage", warn)
    state: Any = night(str(toy), return_state=True)
    assert state.result()["validate"] == "ran"
    said = capfd.readouterr()
    assert said.err.count("warning: five rows are bad, such as \\x1b[31mred\n") == 1
    APILogHandler().flush()
    with get_client(sync_client=True) as client:
        logs = client.request("POST", "/logs/filter", json={"limit": 200, "sort": "TIMESTAMP_ASC"}).json()
    logged = [
        (log["level"], log["message"]) for log in logs if log["flow_run_id"] == str(state.state_details.flow_run_id)
    ]
    assert (logging.WARNING, "five rows are bad, such as \\x1b[31mred") in logged
    assert (logging.INFO, "and so on") in logged


@pytest.mark.parametrize("how", ["sigterm", "ctrl-c", "sigkill"])
def test_a_night_that_is_ended_leaves_no_process_behind(toy: Path, alone: Any, how: str) -> None:
    """Its Prefect server ends with it, also when Ctrl-C goes to all processes of the terminal or it is killed outright.

    Where it can, it says in one line that it was stopped, and the history says so.
    """
    (toy / "hold").write_text("sft")
    night = alone.start(toy, "-m", "flows", "run")
    half = toy / "data/models/sft/model.safetensors"
    alone.until(lambda: half.is_file() or night.poll() is not None)
    [server] = psutil.Process(night.pid).children(recursive=True)
    if how == "ctrl-c":
        os.killpg(night.pid, signal.SIGINT)
    else:
        night.send_signal(signal.SIGTERM if how == "sigterm" else signal.SIGKILL)
    assert night.wait(60) == (-signal.SIGKILL if how == "sigkill" else 130), alone.said(night)
    alone.until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, 60.0)
    assert lock.holder(Paths(toy)) is None
    if how != "sigkill":
        [ended] = history.read(Paths(toy))
        assert (ended.outcome, ended.why.split(":")[0]) == ("interrupted", "sft")
        assert "nightjar: stopped; finished stages are kept" in alone.said(night)
        assert "Traceback" not in alone.said(night)
        assert "All connection attempts failed" not in alone.said(night)


def test_a_decided_night_does_not_fail_for_what_is_kept_of_it(
    toy: Path, prefect: None, toy_night: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an experiment that cannot be recorded nor a summary that cannot be shown: the reason says so."""
    from flows import night as flow

    def refuse(*given: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("flows.night.experiments.record", refuse)
    monkeypatch.setattr(flow, "publish_summary", refuse)
    state = flow.night(str(toy), return_state=True)
    why = (
        "not promoted: it is a toy; no experiment is kept: OSError: no space left; "
        "Prefect's UI has no summary: OSError: no space left"
    )
    assert (state.type.value, state.name, state.message) == ("COMPLETED", "Not promoted", why)
    [night] = history.read(Paths(toy))
    assert (night.outcome, night.why, night.policy_version, night.experiment) == ("not promoted", why, 3, None)


def test_a_night_in_another_terminal_is_refused_at_once(toy: Path) -> None:
    """Before Prefect starts, with who is at work; status says so too, and nothing is written into the history."""
    code = "import sys; from flows import cli\ncode = cli.main(sys.argv[1:])\nprint(code, 'prefect' in sys.modules)"

    def nightjar(command: str) -> subprocess.CompletedProcess[str]:
        given = [sys.executable, "-P", "-c", code, command]
        environ = {**os.environ, environment.TUNED: "off"}
        return subprocess.run(given, cwd=toy, env=environ, capture_output=True, text=True, check=False)

    with lock.held(Paths(toy)):
        run, status = nightjar("run"), nightjar("status")
    assert f"another night is at work (process {os.getpid()}, since 20" in run.stderr
    assert run.stdout.split() == ["1", "False"]
    assert f"be refused; another night is at work (process {os.getpid()}" in status.stdout
    assert history.read(Paths(toy)) == []


def test_params_that_cannot_be_read_are_a_failed_night(toy: Path, prefect: None) -> None:
    """A schedule that meets them at night leaves the reason where people look in the morning."""
    from flows.night import night

    (toy / "params.yaml").write_text("sft: [")
    with pytest.raises(ValueError, match="not YAML"):
        night(str(toy))
    [failed] = history.read(Paths(toy))
    assert failed.outcome == "failed"
    assert "params.yaml: not YAML" in failed.why


def test_only_a_hub_is_asked_again(toy: Path) -> None:
    """A retry mends a network, not a bad row or a wrong param."""
    from flows.night import HUB_RETRIES_S, stage_task

    params = read_params(toy / "params.yaml")
    from_hub = params.model_copy(update={"ingest": params.ingest.model_copy(update={"source": "hub:org/name"})})

    def retries(given: object) -> list[int]:
        return [stage_task(name, given, lambda: "").retries for name in STAGES]  # type: ignore[arg-type]

    assert retries(params) == [0] * len(STAGES)
    assert retries(from_hub) == [len(HUB_RETRIES_S)] + [0] * (len(STAGES) - 1)


def test_the_edges_are_those_of_the_graph(toy: Path) -> None:
    """A stage waits for those whose outputs it reads, be it a file inside them."""
    from flows.night import upstream

    assert upstream("ingest") == []
    assert upstream("rank") == ["validate", "rollouts"]
    assert upstream("pairs") == ["rank"]
    assert upstream("evaluate") == ["validate", "sft", "pairs", "reward", "policy"]
    assert upstream("report") == ["sft", "reward", "policy", "evaluate"]
    assert set(upstream("register")) <= set(VERSIONED)
