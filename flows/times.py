"""The times at which nights are due: Prefect's own, for whoever shows, counts or keeps them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

from tasks import cron
from tasks.params.night import NightParams
from tasks.paths import Paths
from tasks.scheduling import missed, status

SHIFT = timedelta(hours=4)
"""More than any clock is moved at once."""
HORIZONS = [timedelta(days=days) for days in (2, 40, 400, 4000, 40000)]
"""How far to look ahead for the next time: a few hundred days' worth costs most."""


def next_time(params: NightParams, after: datetime) -> datetime:
    """The first time after an instant, in the schedule's zone.

    Where the zone's clock stands still, a time of day is one instant, and Prefect's reader of cron tells it alone.
    Around a change Prefect's schedule is asked, which is slow to import: it moves a missing time, and takes the first
    of a repeated hour.
    """
    zone = ZoneInfo(params.timezone)
    local = after.astimezone(zone)
    due = cron.following(params.cron, local.replace(tzinfo=None)).replace(tzinfo=zone)
    if _steady(local) and _steady(due):
        return due
    return datetime.fromtimestamp(_by_prefect(params, after).timestamp(), zone)


def first_missed(paths: Paths, params: NightParams, now: datetime) -> datetime | None:
    """The first time since the last night at which one was due and none ran; None before the first night."""
    last = missed.last_end(paths, params)
    due = last and next_time(params, last)
    return due if due and due <= now else None


def next_night(params: NightParams, now: datetime) -> str:
    """When the next night is due, in words."""
    due = next_time(params, now)
    return f"{due:%Y-%m-%d %H:%M} {params.timezone}, in {status.duration(due - now)}"


@cache
def schedule_of(line: str, timezone: str) -> Any:
    """Prefect's schedule of a cron line; it lists all zones when it is made."""
    from prefect.server.schemas.schedules import CronSchedule

    return CronSchedule(cron=line, timezone=timezone)


def _steady(when: datetime) -> bool:
    """Whether the clock of its zone is not moved within a day."""
    return len({(when + timedelta(days=day)).utcoffset() for day in (-1, 0, 1)}) == 1


def _by_prefect(params: NightParams, after: datetime) -> datetime:
    schedule = schedule_of(params.cron, params.timezone)
    for horizon in HORIZONS:
        end = after + horizon
        # From before, for times of day are not in the order of instants where a clock is moved; so at the end, too.
        dates = asyncio.run(schedule.get_dates(start=after - SHIFT, end=end))
        if due := next((date for date in dates if after < date <= end - SHIFT), None):
            return due
    raise AssertionError(f"{params.cron} has no next time, and was read as one that has")
