"""What the tests of the flows share: Prefect, embedded and as a server of its own, since each costs seconds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import prefect.main
import psutil
import pytest

from flows.up import HOST, responds
from tests.ports import reserved_ports
from tests.small import MODEL

assert prefect.main  # imported before any test runs: it sets logging up anew, and closes what a test is captured by

HERE = Path(__file__).resolve().parent
TWO_NIGHTS = ("night-2026-11-20-0200", "night-2026-11-21-0200")
STAGES = """\
ingest: {demonstrations: 400, prompts: 120}
validate: {}
sft: {steps: 150, batch_size: 16, learning_rate: 1.5e-2, eval_every: 30}
rollouts: {completions: 3, sampling: [{max_new_tokens: 32}]}
rank: {}
pairs: {dev_share: 0.15, test_share: 0.2}
reward: {steps: 20, batch_size: 8, learning_rate: 2.0e-3}
evaluate: {samples: 2, best_of: 2, max_new_tokens: 32}
policy:
  iterations: 6
  prompts_per_iteration: 16
  critic_warmup: 1
  learning_rate: 2.0e-3
  max_new_tokens: 32
"""
SMALL = MODEL + STAGES


A_NIGHT = """
import sys
from datetime import datetime
from pathlib import Path
from tasks import runner
from tasks.scheduling import diary
from tasks.scheduling.history import Night
from tasks.params.whole import read_params
from tasks.paths import Paths
from tasks.stages import VERSIONED
from tasks.tracking import tracker
paths, now = Paths(Path.cwd()), datetime.now().astimezone()
params = read_params(paths.root / "params.yaml")
with tracker.night(paths, params, "flow", "small", sys.argv[1]) as run_id:
    for stage in VERSIONED:
        runner.update_stage(stage, paths, params)
ended = Night(name=sys.argv[1], started=now, ended=now, outcome="not promoted", why="a trial", run_id=run_id)
diary.conclude(paths, params, ended)
"""


@pytest.fixture(scope="session", name="prefect")
def prefect_database() -> Iterator[None]:
    """A Prefect database of the tests' own; starting it takes seconds, so once."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session", autouse=True)
def own_ports() -> Iterator[None]:
    """Whatever a test starts listens at ports of this process's own: the usual ones belong to all workers."""
    with reserved_ports(2) as (prefect_port, mlflow_port), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_SERVER_API_PORT", str(prefect_port))
        patch.setenv("MLFLOW_PORT", str(mlflow_port))
        yield


@dataclass
class Processes:
    """Starts processes whose environment is the tests' own, and ends those that are left."""

    environ: dict[str, str]
    logs: Path

    def __post_init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, root: Path, *command: str, **environ: str) -> subprocess.Popen[bytes]:
        """Runs python with these arguments in a folder, in a session of its own."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{len(self.started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=root,
                env={**self.environ, **environ},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def said(self, process: subprocess.Popen[bytes]) -> str:
        """What a process has said so far."""
        return (self.logs / f"{self.started.index(process)}.log").read_text(errors="replace")

    def until(self, true: Callable[[], object], within_s: float = 170.0) -> None:
        """Waits until something holds; where it never does, fails with what the processes said."""
        end = time.monotonic() + within_s
        while not true():
            assert time.monotonic() < end, "\n".join(self.said(process) for process in self.started)
            time.sleep(0.2)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kills a process and all that it started, outright, as a power cut would."""
        for victim in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        process.wait()

    def end(self) -> None:
        """Ends every process and those that it started."""
        for process in reversed(self.started):
            for sign, patience_s in ((signal.SIGTERM, 20.0), (signal.SIGKILL, None)):
                try:
                    os.killpg(process.pid, sign)
                    process.wait(patience_s)
                except ProcessLookupError:
                    break
                except subprocess.TimeoutExpired:
                    continue


def of_the_tests(folder: Path, **more: str) -> dict[str, str]:
    """An environment with Prefect's home in a folder, in which python takes the toy's stages for real ones."""
    (folder / "site").mkdir(parents=True, exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(
        "from importlib.util import module_from_spec, spec_from_file_location\n"
        "from tasks import runner\n"
        f"spec = spec_from_file_location('toy', {str(HERE.parent / 'toy.py')!r})\n"
        "toy = module_from_spec(spec)\n"
        "spec.loader.exec_module(toy)\n"
        "runner.run_stage = toy.run_stage\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")}
    own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_RUNNER_POLL_FREQUENCY": "1", "PYTHONSAFEPATH": "1"}
    # The checkout that is tested, wherever an installed one lies.
    return {**kept, **own, "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(HERE.parents[1])]), **more}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Prefect server's API, in a process of its own."""
    folder = tmp_path_factory.mktemp("server")
    processes = Processes(of_the_tests(folder), folder / "logs")
    with reserved_ports(1) as [port]:
        api = f"http://{HOST}:{port}/api"
        try:
            command = ["-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
            process = processes.start(folder, *command, PREFECT_API_URL=api)
            processes.until(lambda: responds(f"{api}/health") or process.poll() is not None)
            assert process.poll() is None, processes.said(process)
            yield api
        finally:
            processes.end()


@pytest.fixture
def processes(tmp_path: Path, server: str) -> Iterator[Processes]:
    """Processes that report to the real server; those that a test leaves are ended."""
    started = Processes(of_the_tests(tmp_path, PREFECT_API_URL=server), tmp_path / "logs")
    yield started
    started.end()


@pytest.fixture(scope="module")
def processes_at() -> Iterator[Callable[[Path], Processes]]:
    """Called with a folder for their logs: processes in this one's environment, ended after the module."""
    made: list[Processes] = []

    def at(folder: Path) -> Processes:
        made.append(Processes(dict(os.environ), folder))
        return made[-1]

    yield at
    for started in made:
        started.end()


GIT = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")


@pytest.fixture(scope="session")
def clean_clone(repository: Path) -> Callable[[Path, str], Path]:
    """Makes a clean clone of what the checkout holds now, but for its tests, with other params."""

    def clone(root: Path, params: str) -> Path:
        listed = subprocess.run(
            [*GIT, "ls-files", "-co", "--exclude-standard"], cwd=repository, capture_output=True, text=True, check=True
        )
        for name in listed.stdout.split():
            source, target = repository / name, root / name
            if source.is_file() and not name.startswith(("tests/", "data/metrics", "data/plots", "dvc.lock")):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        (root / "params.yaml").write_text(params, encoding="utf-8")
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
            subprocess.run([*GIT, *command], cwd=root, check=True)
        return root

    return clone


@pytest.fixture(scope="session")
def two_nights(clean_clone: Callable[[Path, str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which two small nights ran for real: the first is committed, the second changed PPO's penalty."""
    root = clean_clone(tmp_path_factory.mktemp("two") / "workspace", SMALL)
    for night, penalty in ((TWO_NIGHTS[0], 0.05), (TWO_NIGHTS[1], 0.5)):
        (root / "params.yaml").write_text(f"{SMALL}  kl: {{coefficient: {penalty}}}\n", encoding="utf-8")
        # In a process of its own: what DVC and MLflow do to a process's logging stays out of the other tests.
        done = subprocess.run([sys.executable, "-c", A_NIGHT, night], cwd=root, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        if night == TWO_NIGHTS[0]:
            for command in (["add", "-A"], ["commit", "-qm", "the first night"]):
                subprocess.run([*GIT, *command], cwd=root, check=True)
    return root


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Processes]:
    """Processes with a Prefect home of their own and no server; those that a test leaves are ended."""
    started = Processes(of_the_tests(tmp_path), tmp_path / "logs")
    yield started
    started.end()
