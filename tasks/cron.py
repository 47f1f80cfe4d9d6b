"""When nights are due: the cron of params.yaml in its time zone. The scheduler keeps the same times by itself."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError


def check(cron: str, timezone: str) -> None:
    """Raises ValueError where either is not valid: a cron has five fields."""
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, OSError, ValueError):
        raise ValueError(f"timezone {timezone!r} is not known; give a name such as Europe/Berlin, or UTC") from None
    try:
        if len(cron.split()) != 5:
            raise CronSimError(f"{len(cron.split())} fields")
        CronSim(cron, datetime.now(zone))
    except CronSimError as error:
        raise ValueError(
            f"cron {cron!r} is not valid ({error}); give minute, hour, day, month and weekday: 0 2 * * * is at 2 h"
        ) from None


def next_time(cron: str, timezone: str, after: datetime) -> datetime:
    """The first time after an instant."""
    return next(CronSim(cron, after.astimezone(ZoneInfo(timezone))))


def name(when: datetime, timezone: str) -> str:
    """A night's name: its time in the schedule's zone."""
    return f"night-{when.astimezone(ZoneInfo(timezone)):%Y-%m-%d-%H%M}"
