"""Nights whose time passed while nothing was running: found in the history, and in how late a night starts."""

from __future__ import annotations

from datetime import datetime, timedelta

from tasks import cron
from tasks.params.night import NightParams
from tasks.paths import Paths
from tasks.scheduling import history

LATE = timedelta(minutes=30)
"""A night that starts later than this after its time was delayed: its machine or its scheduler was down."""
UNDONE = ("missed", "interrupted")
"""Outcomes of nights that did no work to the end."""


def last_end(paths: Paths, params: NightParams) -> datetime | None:
    """When the last night ended, so that times after it are to be made up for; None before the first night.

    With catch_up, nights that were interrupted or only noted as missed count as not run.
    """
    undone = UNDONE if params.missed == "catch_up" else ()
    return max((night.ended for night in history.read(paths) if night.outcome not in undone), default=None)


def already_run(paths: Paths, planned: datetime) -> history.Night | None:
    """The night that ran at a planned time; a schedule that starts in a repeated hour plans its times once more."""
    ran = (night for night in history.read(paths) if night.outcome not in UNDONE)
    # By the clock's own count: in an hour that comes twice, equal instants of two zones are not equal to Python.
    return next((night for night in ran if night.planned and night.planned.timestamp() == planned.timestamp()), None)


def too_late(paths: Paths, params: NightParams, planned: datetime, now: datetime) -> str | None:
    """Why a night planned for a time long past is not to run any more; None when it is."""
    if now - planned <= LATE:
        return None
    if params.missed == "skip":
        return f"nothing was running at {_minute(planned)}, and night.missed is skip"
    ran = (night for night in history.read(paths) if night.outcome not in UNDONE)
    later = next((night for night in ran if night.ended > planned), None)
    return f"nothing was running at {_minute(planned)}; {later.name} has run since" if later else None


def note(paths: Paths, params: NightParams, due: datetime, now: datetime) -> history.Night | None:
    """Records in the history that nights were missed, once; None where that is recorded already."""
    name = cron.name(due, params.timezone)
    if any((night.name, night.outcome) == (name, "missed") for night in history.read(paths)):
        return None
    then = "one starts late" if params.missed == "catch_up" else "the next one comes at its time"
    why = f"nothing was running since {_minute(due)}; {then} (night.missed: {params.missed})"
    night = history.Night(name=name, started=now, ended=now, outcome="missed", why=why)
    history.append(paths, night)
    return night


def _minute(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M %Z}"
