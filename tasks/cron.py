"""The cron of params.yaml: what it says, and the names of nights. Their times are Prefect's (flows/times.py)."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo


def check(cron: str, timezone: str) -> None:
    """Raises ValueError where either is not valid: a cron has five fields and a next time."""
    try:
        if timezone.startswith(("posix/", "right/")):  # the system's own copies, unknown to the scheduler
            raise KeyError
        ZoneInfo(timezone)
    except (KeyError, OSError, ValueError):
        raise ValueError(f"timezone {timezone!r} is not known; give a name such as Europe/Berlin, or UTC") from None
    try:
        if len(cron.split()) != 5:
            raise ValueError(f"{len(cron.split())} fields")
        if any(field[0] in "RrHh" for field in cron.split()):
            raise ValueError("random times are no schedule")
        following(cron, datetime.now())
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"cron {cron!r} is not valid ({error}); give minute, hour, day, month and weekday: 0 2 * * * is at 2 h"
        ) from None


def following(cron: str, wall: datetime) -> datetime:
    """The first time of day after another, both naive."""
    due: datetime = _croniter()(cron, wall).get_next(datetime)
    return due


def name(when: datetime, timezone: str) -> str:
    """A night's name: its time in the schedule's zone."""
    return f"night-{when.astimezone(ZoneInfo(timezone)):%Y-%m-%d-%H%M}"


@cache
def _croniter() -> Any:
    """Prefect's own reader of cron, without Prefect, which takes seconds to import."""
    prefect = find_spec("prefect")
    assert prefect is not None
    assert prefect.origin is not None
    spec = spec_from_file_location("_croniter", Path(prefect.origin).parent / "_vendor/croniter/croniter.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.croniter
