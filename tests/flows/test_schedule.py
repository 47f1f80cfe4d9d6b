"""The schedule: on a real Prefect server, in a process of its own, as `nightjar serve` runs it."""

from __future__ import annotations

import json
import shutil
import signal
import urllib.request
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tasks import environment
from tasks.params.whole import read_params
from tasks.paths import Paths
from tasks.scheduling import history, lock
from tasks.scheduling.history import Night
from tasks.stages import STAGES
from tasks.tracking import mlflow_store

HALF = "model.safetensors"
"""What the toy's stage leaves half-written where it is held."""
SOON = (
    "import sys\n"
    "from prefect.schedules import Interval\n"
    "from flows import cli, schedule\n"
    "schedule.Cron = lambda cron, timezone: Interval(4, timezone=timezone)\n"
    "sys.exit(cli.main(['serve']))\n"
)
"""`nightjar serve` with a night due every four seconds, as cron cannot say."""


def ask(api: str, path: str, **body: Any) -> Any:
    """What Prefect's server answers."""
    request = urllib.request.Request(
        f"{api}/{path}",
        data=json.dumps(body).encode() if body else None,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.loads(response.read() or "null")


def a_night(paths: Paths, ended: datetime, **more: Any) -> Night:
    """Writes a night into the history."""
    night = Night(name="night-x", started=ended, ended=ended, outcome="promoted", why="it won", **more)
    history.append(paths, night)
    return night


def test_a_deployment_fires_and_the_night_runs(toy: Path, server: str, processes: Any) -> None:
    """Within a minute of `serve` a night has run whole and is in the history; those after it had nothing to do.

    No two overlap. Ended, the schedule is paused, and started again it is not.
    """
    paths = Paths(toy)
    schedule = processes.start(toy, "-c", SOON)
    processes.until(lambda: len(history.read(paths)) >= 2 or schedule.poll() is not None)
    assert schedule.poll() is None, processes.said(schedule)
    first, second = history.read(paths)[:2]
    assert (first.outcome, first.why, first.policy_version) == ("not promoted", "not promoted: it is a toy", 3)
    assert first.run_id is not None
    assert (second.outcome, second.why) == ("nothing new", f"nothing new since {first.name}: nothing to do")
    assert second.started >= first.ended
    assert "next night: 20" in processes.said(schedule)

    deployment = ask(server, "deployments/name/night/workspace")
    assert deployment["paused"] is False
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    schedule.send_signal(signal.SIGTERM)
    assert schedule.wait(60) == 0
    assert ask(server, "deployments/name/night/workspace")["paused"] is True
    runs = ask(server, "flow_runs/filter", deployments={"id": {"any_": [deployment["id"]]}})
    names = {run["state_name"] for run in runs if run["state_type"] == "COMPLETED"}
    assert names == {"Not promoted", "Nothing new"}


@pytest.fixture
def at_work(toy: Path, server: str, processes: Any) -> Callable[[str], dict[str, Any]]:
    """Called with a stage: serves nights that are held there, and returns the run that is at work in it."""

    def serve(stage: str) -> dict[str, Any]:
        (toy / "hold").write_text(stage)
        schedule = processes.start(toy, "-c", SOON)
        half = toy / "data/models" / stage / HALF
        processes.until(lambda: half.is_file() or schedule.poll() is not None)
        assert schedule.poll() is None, processes.said(schedule)
        [run] = runs(server, "RUNNING")
        return run

    return serve


def runs(api: str, kind: str) -> list[dict[str, Any]]:
    """The runs of the served deployment that are in a state of this type."""
    chosen = {"deployments": {"name": {"any_": ["workspace"]}}, "flow_runs": {"state": {"type": {"any_": [kind]}}}}
    return list(ask(api, "flow_runs/filter", **chosen))


def test_a_night_that_comes_while_one_is_at_work_is_turned_away(
    toy: Path, server: str, processes: Any, at_work: Callable[[str], dict[str, Any]]
) -> None:
    """By Prefect, which cancels the next of the schedule, and by the lock, which refuses `nightjar run` and says why.

    The first goes on to its end.
    """
    first, before = at_work("sft"), {run["id"] for run in runs(server, "CANCELLED")}
    direct = processes.start(toy, "-m", "flows", "run")
    assert direct.wait(120) == 1
    assert "another night is at work (process " in processes.said(direct)
    assert "wait until it has ended, or end it" in processes.said(direct)
    processes.until(lambda: len(runs(server, "CANCELLED")) > len(before))
    [turned_away, *_] = [run for run in runs(server, "CANCELLED") if run["id"] not in before]
    assert "concurrency limit" in turned_away["state"]["message"]
    assert [run["id"] for run in runs(server, "RUNNING")] == [first["id"]]
    assert history.read(Paths(toy)) == []

    (toy / "hold").unlink()
    processes.until(lambda: history.read(Paths(toy)))
    assert history.read(Paths(toy))[0].outcome == "not promoted"
    processes.until(lambda: ask(server, f"flow_runs/{first['id']}")["state_name"] == "Not promoted")
    assert (toy / "ran.txt").read_text().split() == list(STAGES)


def test_a_cancelled_night_ends_and_the_next_one_goes_on(
    toy: Path, server: str, processes: Any, at_work: Callable[[str], dict[str, Any]]
) -> None:
    """Its process is gone, the lock is free and the history says so; what it registered before is as it was.

    The half of a checkpoint that it leaves is not taken for one: the next night runs that stage again, and those
    before it not.
    """
    paths, registered = Paths(toy), '{"the champion": 2}'
    paths.registered.parent.mkdir(parents=True, exist_ok=True)
    paths.registered.write_text(registered)
    run = at_work("sft")
    pid = json.loads((paths.nights / "night.lock.json").read_text())["pid"]
    ask(server, f"flow_runs/{run['id']}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    processes.until(lambda: not psutil.pid_exists(pid))
    (toy / "hold").unlink()
    processes.until(lambda: ask(server, f"flow_runs/{run['id']}")["state_type"] == "CANCELLED")
    [cancelled, *_] = history.read(paths)
    assert (cancelled.outcome, cancelled.why) == ("interrupted", "sft: TerminationSignal")
    assert mlflow_store.open_client(paths).get_run(cancelled.run_id).info.status == "KILLED"
    assert paths.registered.read_text() == registered

    processes.until(lambda: len(history.read(paths)) >= 2)
    assert history.read(paths)[1].outcome == "not promoted"
    assert (toy / "ran.txt").read_text().split() == list(STAGES)
    assert not (toy / "data/models/sft" / HALF).exists()


def test_nights_that_were_missed_are_caught_up_with_once(toy: Path, alone: Any) -> None:
    """Three days after the last night, `serve` with a Prefect server of its own starts one at once.

    Killed outright before that one is over and started again, it notes nothing twice and brings the night to its end.
    """
    paths = Paths(toy)
    a_night(paths, datetime.now().astimezone() - timedelta(days=3))

    def until_killed(done: Callable[[], bool]) -> None:
        schedule = alone.start(toy, "-m", "flows", "serve")
        alone.until(lambda: done() or schedule.poll() is not None)
        assert schedule.poll() is None, alone.said(schedule)
        alone.kill(schedule)

    until_killed((toy / "data/metrics/ingest.json").is_file)
    until_killed(lambda: len(history.read(paths)) >= 3)
    _, noted, late = history.read(paths)
    assert noted.outcome == "missed"
    assert "one starts late (night.missed: catch_up)" in noted.why
    assert late.outcome == "not promoted"


def test_a_night_that_is_held_up_is_skipped_as_params_say(
    toy: Path, prefect: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started an hour after its time by a deployment, with night.missed: skip; it does no work and says why.

    So does one that comes while another is at work.
    """
    from flows import night as flow

    (toy / "params.yaml").write_text((toy / "params.yaml").read_text() + "night: {missed: skip}\n")
    planned = datetime.now().astimezone() - timedelta(hours=1)
    monkeypatch.setattr(flow, "deployment", SimpleNamespace(id="a deployment"))
    monkeypatch.setattr(flow, "flow_run", SimpleNamespace(scheduled_start_time=planned))
    state = flow.night(str(toy), return_state=True)
    assert (state.name, state.result()) == ("Missed", {})
    assert "and night.missed is skip" in str(state.message)

    def refuse(paths: Paths) -> None:
        raise lock.AnotherNightError("another night is at work (process 7, since 02:00)")

    monkeypatch.setattr("flows.night.lock.held", refuse)
    assert "process 7" in str(flow.night(str(toy), return_state=True).message)
    assert [night.outcome for night in history.read(Paths(toy))] == ["missed", "missed"]


@pytest.fixture
def prefect_cli(repository: Path, toy: Path, processes: Any) -> Callable[..., None]:
    """Runs Prefect's command in the toy's checkout with this project's prefect.yaml, asking nobody anything."""
    shutil.copyfile(repository / "prefect.yaml", toy / "prefect.yaml")

    def prefect(*command: str) -> None:
        process = processes.start(toy, "-m", "prefect", "--no-prompt", *command, PWD=str(toy))
        assert process.wait(120) == 0, processes.said(process)

    return prefect


def test_a_work_pool_runs_the_night_as_prefect_yaml_deploys_it(
    repository: Path, toy: Path, server: str, processes: Any, prefect_cli: Callable[..., None]
) -> None:
    """`prefect deploy` and a worker of the process type, for real: it works in the checkout it was deployed from.

    The schedule is that of params.yaml, and one night at a time is the rule there too.
    """
    tell = "echo $GLIBC_TUNABLES > told.txt"
    night = f"night: {{deadline_minutes: 1.0e-6, notify: '{tell}', notify_on: [deadline]}}\n"
    (toy / "params.yaml").write_text((toy / "params.yaml").read_text() + night)
    # The worker imports the night from the checkout, where the toy has stages without code.
    (toy / "tasks/__init__.py").write_text(f"__path__ = [{str(repository / 'tasks')!r}]\n")
    prefect_cli("work-pool", "create", "nightjar", "--type", "process")
    prefect_cli("deploy", "--name", "process")
    deployment = as_deployed(repository, server, "process")
    assert deployment["parameters"] == {"root": str(toy)}
    assert deployment["pull_steps"] == [
        {"prefect.deployments.steps.set_working_directory": {"directory": str(toy)}},
    ]

    prefect_cli("deployment", "run", "night/process")
    prefect_cli("worker", "start", "--pool", "nightjar", "--run-once")
    processes.until(lambda: history.read(Paths(toy)))
    [ended] = history.read(Paths(toy))
    assert (ended.outcome, ended.why.split(";")[0]) == ("deadline", "night.deadline_minutes is over before ingest")
    assert (toy / "told.txt").read_text() == environment.ALLOCATOR["GLIBC_TUNABLES"] + "\n"


def as_deployed(repository: Path, api: str, name: str) -> dict[str, Any]:
    """A deployment as the server has it: the night, at the times of params.yaml, one at a time, as its pool allows."""
    deployment: dict[str, Any] = ask(api, f"deployments/name/night/{name}")
    night = read_params(repository / "params.yaml").night
    assert deployment["entrypoint"] == "flows.night.night"
    [schedule] = [each["schedule"] for each in deployment["schedules"]]
    assert (schedule["cron"], schedule["timezone"]) == (night.cron, night.timezone)
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    # The server refuses a value of a wrong kind, but lets names pass that its pool's template does not have.
    pool = ask(api, f"work_pools/{deployment['work_pool_name']}")
    assert set(deployment["job_variables"]) <= set(pool["base_job_template"]["variables"]["properties"])
    return deployment


def test_prefect_yaml_deploys_to_containers_and_pods(
    repository: Path, toy: Path, server: str, prefect_cli: Callable[..., None]
) -> None:
    """To pools of the types docker and kubernetes, whose templates Prefect itself brings: no worker has to be there."""
    for kind in ("docker", "kubernetes"):
        prefect_cli("work-pool", "create", kind, "--type", kind)
        prefect_cli("deploy", "--name", kind, "--pool", kind)
        deployment = as_deployed(repository, server, kind)
        assert deployment["parameters"] == {"root": "/nightjar"}
        assert deployment["job_variables"]["image"]
    assert ask(server, "deployments/name/night/docker")["job_variables"]["volumes"] == [f"{toy}:/nightjar"]
