"""Prefect's UI, MLflow's UI and the schedule together, on loopback; and how the nights stand, in a few lines."""

from __future__ import annotations

import os
import re
import signal
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows import times
from flows.up import free_port, responds
from tasks.params.night import NightParams
from tasks.paths import Paths
from tasks.scheduling import history, status
from tasks.scheduling.history import Night


def test_up_brings_all_up_and_ends_them_together(toy: Path, alone: Any) -> None:
    """Addresses that answer; when one dies it says so and why, and the others stay; SIGTERM leaves none behind."""
    process = alone.start(toy, "-m", "flows", "up")
    alone.until(lambda: "Ctrl-C" in alone.said(process) or process.poll() is not None)
    said = alone.said(process)
    addresses = dict(re.findall(r"^(Prefect|MLflow) UI +(http://127\.0\.0\.1:\d+)$", said, re.MULTILINE))
    assert set(addresses) == {"Prefect", "MLflow"}, said
    # The tests' settings name other ports, so that two tests never ask for the same.
    assert not [address for address in addresses.values() if address.endswith((":4200", ":5000"))]
    assert re.search(r"^schedule +20\d\d-\d\d-\d\d 02:00 UTC, in ", said, re.MULTILINE)
    assert responds(addresses["Prefect"])
    assert responds(addresses["MLflow"])

    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) == 3
    os.killpg(children[1], signal.SIGKILL)
    alone.until(lambda: "MLflow UI has ended with -9; the last of" in alone.said(process))
    assert process.poll() is None
    assert responds(addresses["Prefect"])

    process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 0
    assert not responds(addresses["Prefect"])
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []


def test_a_taken_port_is_not_asked_for() -> None:
    """The usual one where it is free, another where it is not."""
    free = free_port(0)
    assert free_port(free) == free
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) not in (port, 0)


def drawn(table: Any) -> str:
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as text:
        console.print(table)
    return text.get()


def test_status_tells_the_last_nights(tmp_path: Path) -> None:
    """The latest seven, in the schedule's zone, with how long each took, its policy and why it ended so."""
    paths = Paths(tmp_path)
    assert status.nights(paths, "UTC") is None
    start = datetime(2026, 11, 1, 1, tzinfo=UTC)
    for day in range(9):
        begun, took = start + timedelta(days=day), timedelta(minutes=65)
        history.append(
            paths,
            Night(
                name="n", started=begun, ended=begun + took, outcome="promoted", why=f"why {day}", policy_version=day
            ),
        )
    text = drawn(status.nights(paths, "Europe/Berlin"))
    assert "why 1" not in text
    assert re.search(r"2026-11-03 02:00 +1 h 05 min +promoted +v2 +why 2", text)
    assert "why 8" in text


def test_before_the_first_night_nobody_is_champion(tmp_path: Path) -> None:
    """No registry, no decision: none yet."""
    assert status.champion(Paths(tmp_path), "nightjar") == "none yet"


def test_the_next_night_is_told_with_the_time_until_then() -> None:
    """At 22:58:30 UTC it is 23:58:30 in Berlin."""
    params = NightParams(cron="0 2 * * *", timezone="Europe/Berlin")
    now = datetime(2026, 11, 21, 22, 58, 30, tzinfo=UTC)
    assert times.next_night(params, now) == "2026-11-22 02:00 Europe/Berlin, in 2 h 01 min"


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h 00 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    """In the unit that matters."""
    assert status.duration(timedelta(seconds=seconds)) == said
