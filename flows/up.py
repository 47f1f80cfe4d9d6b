"""Prefect's UI, MLflow's UI and the schedule together, on this machine alone, as processes of their own."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tasks import environment
from tasks.paths import Paths
from tasks.tracking import mlflow_store

HOST = "127.0.0.1"
START_S = 180.0
"""How long a service may take to answer; a slow machine's first Prefect database takes most of a minute."""
END_S = 30.0
SCHEDULED = "next night: "
"""What the schedule prints once it waits for nights."""

Say = Callable[[str], None]


@dataclass
class Service:
    """A process that was started, and its log.

    Attributes:
        address: its URL; empty where it has none.
        answers: whether it is up.
    """

    title: str
    address: str
    process: subprocess.Popen[bytes]
    log: Path
    answers: Callable[[], bool]

    def wait(self) -> bool:
        """Waits until it answers; False when it ends first, or does not answer in time."""
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            if self.answers():
                return True
            time.sleep(0.2)
        return False

    def end(self) -> None:
        """Ends it and the processes that it started."""
        for sign, patience_s in ((signal.SIGTERM, END_S), (signal.SIGKILL, None)):
            try:
                os.killpg(self.process.pid, sign)
                self.process.wait(patience_s)
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def location(self) -> str:
        """A line with its address, or with its last line of output where it has none."""
        return f"{self.title:<11} {self.address or self.output()[-1].removeprefix(SCHEDULED)}"

    def end_message(self) -> str:
        """A message that it ended, with its last lines of output, which say why."""
        lines = "\n".join(f"    {line}" for line in self.output()[-8:])
        return f"{self.title} has ended with {self.process.poll()}; the last of {self.log}:\n{lines}"

    def output(self) -> list[str]:
        """The lines of its output."""
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()


def up(paths: Paths, say: Say) -> int:
    """Starts all, prints their addresses, reports when one ends by itself, and ends them with itself.

    Returns:
        0 when it was interrupted, 1 when nothing was left to wait for.
    """
    services: list[Service] = []
    try:
        _start_all(paths, services, say)
        say(f"their logs: {logs(paths).relative_to(paths.root)}/; all end with Ctrl-C")
        while services:
            for service in [service for service in services if service.process.poll() is not None]:
                services.remove(service)
                say(service.end_message())
            time.sleep(0.5)
        return 1
    except KeyboardInterrupt:
        say("ending")
        return 0
    finally:
        _end(services)


@contextmanager
def prefect_server(paths: Paths, say: Say, meanwhile: AbstractContextManager[None] | None = None) -> Iterator[None]:
    """While open, Prefect's settings name a server that is there: the user's, or else one that ends with this process.

    Prefect's embedded server would not do: it starts no flow by itself, and in a terminal Ctrl-C ends it before the
    flow that reports to it, which then waits for it for minutes.

    Args:
        paths: the workspace.
        say: prints the server's address.
        meanwhile: is open while our own starts, which takes seconds.

    Raises:
        ConnectionError: our own does not start.
    """
    if _users_server(paths):
        yield
        return
    from prefect.settings import PREFECT_API_URL, temporary_settings

    service = _start_prefect(paths)
    # Not before the process's end: only there does Prefect send its last reports and close its connections.
    atexit.register(_end, [service])
    with meanwhile or nullcontext():
        ready = service.wait()
    if not ready:
        raise ConnectionError(service.end_message())
    say(service.location())
    os.environ["PREFECT_API_URL"] = api = f"{service.address}/api"  # for the processes that are started
    with temporary_settings({PREFECT_API_URL: api}):
        yield


def _start_all(paths: Paths, services: list[Service], say: Say) -> None:
    """Starts one after the other, since the schedule needs Prefect's server."""
    environ = {}
    if not _users_server(paths):
        services.append(_start_prefect(paths))
        environ = {"PREFECT_API_URL": f"{services[0].address}/api"}
    address = f"http://{HOST}:{free_port(int(os.environ.get('MLFLOW_PORT', 5000)))}"
    paths.mlruns.mkdir(parents=True, exist_ok=True)
    store = mlflow_store.database_uri(paths)
    command = ["mlflow", "ui", "--backend-store-uri", store, "--host", HOST, "--port", address.rpartition(":")[2]]
    services.append(_start(paths, "MLflow UI", address, [*command, "--workers", "1"], f"{address}/health"))
    _wait(services, say)
    services.append(_start(paths, "schedule", "", ["flows", "serve"], None, environ))
    _wait(services[-1:], say)


def _users_server(paths: Paths) -> str | None:
    """The API that PREFECT_API_URL names, in the environment or wherever else Prefect looks for its settings."""
    environment.prepare_prefect_home(paths.nights / "prefect")
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


def _start_prefect(paths: Paths) -> Service:
    from prefect.settings import get_current_settings

    address = f"http://{HOST}:{free_port(get_current_settings().server.api.port)}"
    command = ["flows.server", "--host", HOST, "--port", address.rpartition(":")[2]]
    environ = {"PREFECT_API_URL": f"{address}/api"}
    return _start(paths, "Prefect UI", address, command, f"{address}/api/health", environ)


def _start(
    paths: Paths,
    title: str,
    address: str,
    module: Sequence[str],
    health: str | None,
    environ: dict[str, str] | None = None,
) -> Service:
    log = logs(paths) / f"{title.split()[0].lower()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=paths.root,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.PIPE,  # never written to: it closes when this process ends
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which ends the others in order
        )

    def answers() -> bool:
        return responds(health) if health else SCHEDULED in log.read_text(encoding="utf-8", errors="replace")

    return Service(title, address, process, log, answers)


def _wait(services: Sequence[Service], say: Say) -> None:
    for service in services:
        if service.wait():
            say(service.location())
        elif service.process.poll() is None:
            say(f"{service.title:<11} {service.address} does not answer yet")


def _end(services: Sequence[Service]) -> None:
    """Ends all, the last first: the schedule tells Prefect's server that it pauses."""
    before = {sign: signal.signal(sign, signal.SIG_IGN) for sign in (signal.SIGINT, signal.SIGTERM)}
    for service in reversed(services):
        service.end()
    for sign, handler in before.items():
        signal.signal(sign, handler)


def logs(paths: Paths) -> Path:
    """The folder of each process's log."""
    return paths.nights / "logs"


def free_port(usual: int) -> int:
    """The usual port, or another where that is in use."""
    for port in (usual, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError(f"no port is free on {HOST}")


def responds(url: str) -> bool:
    """Whether there is an answer at this address."""
    try:
        with urllib.request.urlopen(url, timeout=2.0) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False
