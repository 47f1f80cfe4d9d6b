"""Nights around a change of the clock, simulated: each planned time is run once, none is noted as missed.

The times are those that Prefect's schedule plans; what is to be made up for, and what has run already, is decided by
the code that decides it in a night. Every way in which a clock changes from 2026 to 2028, each change, several crons:

    python -m tests.flows.schedules
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from zoneinfo import ZoneInfo, available_timezones

from flows import times
from tasks import cron
from tasks.params.night import NightParams
from tasks.paths import Paths
from tasks.scheduling import history, missed
from tasks.scheduling.history import Night

CRONS = ("30 2 * * *", "0 0 * * *", "15 0,1,2,3 * * *", "0 * * * *")
YEARS = range(2026, 2029)
DAY, MINUTE, SECOND = timedelta(days=1), timedelta(minutes=1), timedelta(seconds=1)
AROUND = timedelta(hours=30)
TOOK = 3 * MINUTE


def changes(zone: str) -> list[datetime]:
    """The instants at which a zone's clock is moved, to the minute."""
    found, clock = [], ZoneInfo(zone)
    when, end = datetime(YEARS.start, 1, 1, tzinfo=UTC), datetime(YEARS.stop, 1, 1, tzinfo=UTC)
    while when < end:
        before = when.astimezone(clock).utcoffset()
        if (when + DAY).astimezone(clock).utcoffset() != before:
            low, high = when, when + DAY
            while high - low > MINUTE:
                middle = (low + (high - low) // 2).replace(second=0, microsecond=0)
                low, high = (middle, high) if middle.astimezone(clock).utcoffset() == before else (low, middle)
            found.append(high)
        when += DAY
    return found


def planned(params: NightParams, start: datetime, end: datetime) -> list[datetime]:
    """The times that Prefect plans from one instant to another, and those of the past that it plans again."""
    # Its own end is a wall time, which may come twice.
    dates = asyncio.run(times.schedule_of(params.cron, params.timezone).get_dates(start=start, end=end + DAY))
    instants = sorted(datetime.fromtimestamp(date.timestamp(), UTC) for date in dates)
    return [instant for instant in instants if instant <= end]


def wrong_times(params: NightParams, change: datetime, step: timedelta) -> list[tuple[datetime, datetime, datetime]]:
    """Where the next time is not the first that Prefect plans: asked from when, what was found, what is right."""
    truth, wrong = planned(params, change - AROUND - DAY, change + AROUND + 2 * DAY), []
    when = change - AROUND + 7 * SECOND
    while when < change + AROUND:
        found = times.next_time(params, when).astimezone(UTC)
        right = next(date for date in truth if date > when)
        if found != right:
            wrong.append((when, found, right))
        when += step
    return wrong


def simulate(paths: Paths, params: NightParams, change: datetime, starts: Sequence[datetime]) -> list[Night]:
    """The history of nights around a change, with the schedule started at these instants: the first before all nights.

    Started, it plans anew, as Prefect does for a schedule that it is given, also what lies in the past by then.
    """
    for start, until in zip(starts, [*starts[1:], change + AROUND], strict=True):
        if due := times.first_missed(paths, params, start):
            missed.note(paths, params, due, start)
        for due in planned(params, start, until - SECOND):
            now = max(due, start)
            if missed.already_run(paths, due):
                continue
            why = missed.too_late(paths, params, due, now)
            outcome = "missed" if why else "promoted"
            name, ended = cron.name(due, params.timezone), now + TOOK
            night = Night(name=name, started=now, ended=ended, outcome=outcome, why=why or "it won", planned=due)
            history.append(paths, night)
    return history.read(paths)


def faults(params: NightParams, change: datetime, every: timedelta) -> Iterator[str]:
    """What went wrong around a change while the schedule was started again every so often; nothing, it is hoped."""
    starts = [change - AROUND + 11 * SECOND]
    while starts[-1] + every < change + AROUND:
        starts.append(starts[-1] + every)
    with TemporaryDirectory() as folder:
        nights = simulate(Paths(Path(folder)), params, change, starts)
    ran = [night.started for night in nights if night.outcome == "promoted"]
    due = planned(params, starts[0], change + AROUND - SECOND)
    if any(night.outcome == "missed" for night in nights):
        yield f"{params.cron} {params.timezone} {change}: noted as missed"
    if ran != due:
        yield f"{params.cron} {params.timezone} {change}: ran at {ran}, planned {due}"


def main() -> None:
    """Simulates a zone of each way in which clocks change, and prints what went wrong, with the counts."""
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for zone in sorted(available_timezones()):
        if moved := changes(zone):
            alike[tuple(str(change.astimezone(ZoneInfo(zone))) for change in moved)].append(zone)
    count, wrong = 0, []
    for zone, *_ in alike.values():
        for change in changes(zone):
            for line in CRONS:
                params = NightParams(cron=line, timezone=zone)
                wrong += [str(each) for each in wrong_times(params, change, 257 * MINUTE)]
                wrong += list(faults(params, change, 83 * MINUTE))
                count += 1
    print("\n".join(wrong))
    zones = sum(map(len, alike.values()))
    print(f"{zones} zones that change in {len(alike)} ways, {count} simulations, {len(wrong)} wrong")


if __name__ == "__main__":
    main()
