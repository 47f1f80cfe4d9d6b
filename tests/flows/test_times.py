"""The times of nights: Prefect's, also where a clock is moved."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows import times
from tasks.params.night import NightOutcome, NightParams
from tasks.paths import Paths
from tasks.scheduling import history
from tasks.scheduling.history import Night
from tests.flows import schedules

# A zone of each way to change: by an hour, half of one, two; at midnight; against the seasons; by lunar months.
ZONES = (
    *("Europe/Berlin", "America/Montreal", "Australia/Lord_Howe", "Antarctica/Troll", "America/Santiago"),
    "Africa/Casablanca",
)


def utc(month: int, day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "zone", "after", "due"),
    [
        ("0 2 * * *", "Europe/Berlin", utc(11, 21, 12), utc(11, 22, 1)),
        ("0 2 * * *", "Europe/Berlin", utc(7, 1, 12), utc(7, 2, 0)),
        ("30 4 * * 1", "UTC", utc(11, 21, 12), utc(11, 23, 4, 30)),  # 21 November 2026 is a Saturday
        ("0 2 29 2 *", "UTC", utc(11, 21, 12), datetime(2028, 2, 29, 2, tzinfo=UTC)),
        # 02:30 is missing on 29 March in Berlin: Prefect runs it at 01:30, an hour and a half after midnight, and
        # 02:00 of 8 March in Montreal at 01:00, where both still have winter time.
        ("30 2 * * *", "Europe/Berlin", utc(3, 28, 12), utc(3, 29, 0, 30)),
        ("30 2 * * *", "Europe/Berlin", utc(3, 29, 0, 30), utc(3, 30, 0, 30)),
        ("0 2 * * *", "America/Montreal", utc(3, 7, 12), utc(3, 8, 6)),
        # The hour from 2 to 3 comes twice on 25 October: the first one counts, and the next full hour is 3.
        ("0 * * * *", "Europe/Berlin", utc(10, 24, 23, 30), utc(10, 25, 0)),
        ("0 * * * *", "Europe/Berlin", utc(10, 25, 0), utc(10, 25, 2)),
        ("*/20 * * * *", "Europe/Berlin", utc(10, 25, 0, 40), utc(10, 25, 2)),
        ("30 2 * * *", "Europe/Berlin", utc(10, 25, 1, 10), utc(10, 26, 1, 30)),
    ],
)
def test_times_are_those_of_the_schedules_zone(cron: str, zone: str, after: datetime, due: datetime) -> None:
    """02:00 in Berlin is 01:00 UTC in winter and 00:00 in summer; a missing time is moved, a repeated one is one."""
    assert times.next_time(NightParams(cron=cron, timezone=zone), after).astimezone(UTC) == due


@pytest.mark.parametrize("zone", ZONES)
def test_the_next_time_is_what_prefect_plans(zone: str) -> None:
    """Asked every seven hours from the day before a change to the day after, by a night's cron and an hour's."""
    for change in schedules.changes(zone)[:2]:
        for cron in ("30 2 * * *", "0 * * * *"):
            assert schedules.wrong_times(NightParams(cron=cron, timezone=zone), change, timedelta(hours=7.3)) == []


@pytest.mark.parametrize("zone", ZONES)
def test_each_planned_time_is_run_once_and_none_is_missed(zone: str) -> None:
    """Also with a schedule that is started again every hour or so, in the repeated hour and in the missing one."""
    for change in schedules.changes(zone)[:2]:
        params = NightParams(cron="30 2 * * *", timezone=zone)
        assert list(schedules.faults(params, change, timedelta(minutes=55))) == []
    params = NightParams(cron="15 0,1,2,3 * * *", timezone=zone)
    assert list(schedules.faults(params, schedules.changes(zone)[1], timedelta(minutes=100))) == []


CATCH_UP, SKIP = NightParams(missed="catch_up"), NightParams(missed="skip")


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return utc(11, day, hour, minute)


def night(ended: datetime, outcome: NightOutcome = "promoted") -> Night:
    return Night(name="night-x", started=ended, ended=ended, outcome=outcome, why="because", policy_version=3)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


@pytest.mark.parametrize("params", [CATCH_UP, SKIP])
def test_before_the_first_night_none_was_missed(paths: Paths, params: NightParams) -> None:
    """A schedule that never ran has nothing to make up for."""
    assert times.first_missed(paths, params, at(21, 12)) is None


@pytest.mark.parametrize(
    ("ended", "now", "due"),
    [
        (at(20, 3), at(20, 23), None),
        (at(20, 3), at(21, 1, 59), None),
        (at(20, 3), at(21, 2), at(21, 2)),
        (at(20, 3), at(29, 12), at(21, 2)),  # however many: the first of them
        (at(20, 1, 30), at(20, 12), at(20, 2)),
        (at(20, 2, 30), at(20, 12), None),  # began before its time and ended after: it was the night
    ],
)
def test_a_time_since_the_last_night_that_has_passed_was_missed(
    paths: Paths, ended: datetime, now: datetime, due: datetime | None
) -> None:
    """Due at 02:00 each night: what counts is when the last night ended."""
    history.append(paths, night(ended, "failed"))
    assert times.first_missed(paths, CATCH_UP, now) == due
    assert times.first_missed(paths, SKIP, now) == due


@pytest.mark.parametrize("outcome", ["missed", "interrupted"])
def test_a_night_that_was_cut_off_is_caught_up_with_but_not_twice_skipped(paths: Paths, outcome: NightOutcome) -> None:
    """Cut off at 03:00, the 02:00 of that night is still to be made up for; who skips is told once."""
    history.append(paths, night(at(20, 3)))
    history.append(paths, night(at(21, 3), outcome))
    assert times.first_missed(paths, CATCH_UP, at(21, 4)) == at(21, 2)
    assert times.first_missed(paths, SKIP, at(21, 4)) is None
