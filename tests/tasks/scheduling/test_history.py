"""The history of nights, and which nights were missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from tasks import cron
from tasks.params.night import NightOutcome, NightParams
from tasks.paths import Paths
from tasks.scheduling import history, missed
from tasks.scheduling.history import Night

HOUR = timedelta(hours=1)


def at(day: int, hour: int, minute: int = 0) -> datetime:
    """An instant of November 2026, UTC."""
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


def night(ended: datetime, outcome: NightOutcome = "promoted") -> Night:
    return Night(name="night-x", started=ended - HOUR, ended=ended, outcome=outcome, why="because", policy_version=3)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


CATCH_UP, SKIP = NightParams(missed="catch_up"), NightParams(missed="skip")


def test_nights_are_read_as_they_were_written(paths: Paths) -> None:
    """In order, with their time zones; no file is no night."""
    assert history.read(paths) == []
    nights = [night(at(20, 3)), Night.failed("night-y", at(21, 2), "sft: ü\nsecond line")]
    for each in nights:
        history.append(paths, each)
    assert history.read(paths) == nights
    assert len((paths.nights / "history.jsonl").read_text().splitlines()) == 2


def test_a_broken_line_is_named(paths: Paths) -> None:
    """The file and the line."""
    history.append(paths, night(at(20, 3)))
    with (paths.nights / "history.jsonl").open("a") as stream:
        stream.write('{"name": "x"}\n')
    with pytest.raises(ValueError, match=r"history\.jsonl:2: .*started"):
        history.read(paths)


def test_what_was_missed_is_noted_once(paths: Paths) -> None:
    """Also when the schedule starts again before the late night has ended."""
    history.append(paths, night(at(20, 3)))
    noted = missed.note(paths, CATCH_UP, at(21, 2), at(23, 9))
    assert noted is not None
    assert (noted.name, noted.outcome) == ("night-2026-11-21-0200", "missed")
    assert "since 2026-11-21 02:00 UTC; one starts late" in noted.why
    assert missed.note(paths, CATCH_UP, at(21, 2), at(23, 10)) is None
    assert history.read(paths)[1:] == [noted]


def test_a_late_start_is_given_up_when_skipping_or_when_another_night_ran_since(paths: Paths) -> None:
    """Half an hour's delay is none; a day late, one of several that were held up runs and the others do not."""
    assert missed.too_late(paths, SKIP, at(21, 2), at(21, 2, 30)) is None
    assert "night.missed is skip" in (missed.too_late(paths, SKIP, at(21, 2), at(21, 2, 31)) or "")
    assert missed.too_late(paths, CATCH_UP, at(21, 2), at(22, 9)) is None
    history.append(paths, night(at(21, 1, 59)))
    history.append(paths, night(at(22, 1), "missed"))
    history.append(paths, night(at(22, 1), "interrupted"))
    assert missed.too_late(paths, CATCH_UP, at(21, 2), at(22, 9)) is None
    history.append(paths, night(at(22, 9)))
    assert "night-x has run since" in (missed.too_late(paths, CATCH_UP, at(22, 2), at(22, 10)) or "")


def test_a_night_is_named_after_its_time_in_the_schedules_zone() -> None:
    """01:00 UTC is 02:00 in Berlin in winter."""
    assert cron.name(at(22, 1), "Europe/Berlin") == "night-2026-11-22-0200"


@pytest.mark.parametrize("fold", [0, 1])
def test_a_time_that_has_run_is_known_by_its_night(paths: Paths, fold: int) -> None:
    """One that was cut off or only noted has not run; the hour that comes twice is told apart, in whatever zone."""
    planned = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
    outcomes: tuple[NightOutcome, ...] = ("missed", "interrupted", "failed")
    for outcome in outcomes:
        assert missed.already_run(paths, planned) is None
        history.append(paths, night(at(21, 2), outcome).model_copy(update={"planned": planned}))
    found = missed.already_run(paths, planned)
    assert found is not None
    assert found.outcome == "failed"
    assert missed.already_run(paths, planned.replace(fold=1 - fold)) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cron": "0 2 * *"}, r"cron '0 2 \* \*' is not valid \(4 fields\); give minute, hour"),
        ({"cron": "60 2 * * *"}, "out of range"),
        ({"cron": "0 0 30 2 *"}, "failed to find next date"),
        ({"cron": "R 2 * * *"}, "random times are no schedule"),  # Prefect refuses them too
        ({"timezone": "posix/Europe/Berlin"}, "timezone 'posix/Europe/Berlin' is not known"),
        ({"timezone": "Middle/Earth"}, "timezone 'Middle/Earth' is not known; give a name such as Europe/Berlin"),
    ],
)
def test_a_schedule_that_is_none_is_refused_with_the_params(changes: dict[str, str], said: str) -> None:
    """When params.yaml is read, not when the night was due."""
    with pytest.raises(ValueError, match=said):
        NightParams.model_validate(changes)
