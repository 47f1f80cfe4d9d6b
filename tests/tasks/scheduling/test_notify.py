"""Telling people how a night ended, and writing it down whatever ends it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tasks.deadline import DeadlineError
from tasks.files import write_json
from tasks.params.night import NightOutcome, NightParams
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.scheduling import diary, history
from tasks.scheduling.history import Night
from tasks.scheduling.notify import notify

TELL = 'echo "$NIGHTJAR_OUTCOME" > told.txt; cat >> told.txt'
WHEN = datetime(2026, 11, 21, 2, tzinfo=UTC)


def night(outcome: NightOutcome) -> Night:
    return Night(name="night-x", started=WHEN, ended=WHEN, outcome=outcome, why="sft: no", policy_version=4)


def test_the_command_gets_the_outcome_and_the_night(tmp_path: Path) -> None:
    """In the workspace: the outcome in its environment, the night as one line of JSON on standard input."""
    assert notify(night("failed"), NightParams(notify=TELL), tmp_path) is None
    outcome, told = (tmp_path / "told.txt").read_text().splitlines()
    assert outcome == "failed"
    assert Night.model_validate_json(told) == night("failed")


def test_only_what_people_asked_for_is_told(tmp_path: Path) -> None:
    """By default failures alone; and nothing where no command is given."""
    assert notify(night("promoted"), NightParams(notify=TELL), tmp_path) is None
    assert notify(night("failed"), NightParams(), tmp_path) is None
    assert not (tmp_path / "told.txt").exists()
    notify(night("promoted"), NightParams(notify=TELL, notify_on=["promoted", "missed"]), tmp_path)
    assert (tmp_path / "told.txt").exists()


def test_trouble_with_the_command_is_said_and_not_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that fails, one that is not there, one that does not end."""
    said = notify(night("failed"), NightParams(notify="echo no network >&2; exit 7"), tmp_path)
    assert said == "night.notify ended with 7: no network"
    assert "ended with 127" in (notify(night("failed"), NightParams(notify="no-such-command"), tmp_path) or "")
    monkeypatch.setattr("tasks.scheduling.notify.TIMEOUT_S", 0.05)
    assert "timed out" in (notify(night("failed"), NightParams(notify="sleep 5"), tmp_path) or "")


@pytest.fixture
def params() -> Params:
    """Params that tell of every outcome."""
    tell = {"notify": TELL, "notify_on": ["failed", "interrupted", "deadline", "promoted"], "timezone": "Asia/Tokyo"}
    training = {"steps": 1, "batch_size": 1, "learning_rate": 1e-3}
    return Params.model_validate(
        {
            "model": {"config": {"model_type": "llama"}},
            "sft": training,
            "reward": training,
            "policy": {"iterations": 1, "prompts_per_iteration": 1},
            "night": tell,
        }
    )


@pytest.mark.parametrize(
    ("error", "outcome", "why"),
    [
        (ValueError("no rows"), "failed", "sft: no rows"),
        (KeyboardInterrupt(), "interrupted", "sft: KeyboardInterrupt"),
        (DeadlineError("over at step 3"), "deadline", "over at step 3"),
    ],
)
def test_whatever_ends_a_night_is_written_and_told(
    tmp_path: Path, params: Params, error: BaseException, outcome: str, why: str
) -> None:
    """A failure names its stage and goes on to the caller, as an interruption does; a deadline ends in good order."""
    paths = Paths(tmp_path)
    said: list[str] = []

    def work() -> None:
        with diary.opened(paths, params, WHEN, said.append) as entry:
            entry.stage = "sft"
            raise error

    if outcome == "deadline":
        work()
    else:
        with pytest.raises(type(error)):
            work()
    [written] = history.read(paths)
    assert (written.name, written.outcome, written.why) == ("night-2026-11-21-1100", outcome, why)
    assert written.started <= written.ended
    assert said == [f"night-2026-11-21-1100: {outcome}: {why}"]
    assert (tmp_path / "told.txt").read_text().startswith(outcome)


@pytest.mark.parametrize(
    ("how", "promoted", "outcome", "why"),
    [
        ("ran", True, "promoted", "it won"),
        ("ran", False, "not promoted", "it won"),
        ("cached", True, "nothing new", "what ran made version 5 again, which is registered already"),
    ],
)
def test_the_outcome_is_registers_decision(
    tmp_path: Path, params: Params, how: str, promoted: bool, outcome: str, why: str
) -> None:
    """With the version it decided on; where the night made the same policy again, no decision was taken."""
    paths = Paths(tmp_path)
    write_json(paths.registered, {"promoted": promoted, "reason": "it won", "policy": {"version": 5}})
    with diary.opened(paths, params, WHEN, print) as entry:
        entry.stages["register"] = how
        entry.decided(paths)
    [written] = history.read(paths)
    assert (written.outcome, written.why, written.policy_version) == (outcome, why, 5)


@pytest.mark.parametrize(
    ("error", "noted"),
    [(ValueError("no room"), "failed after the decision: no room"), (KeyboardInterrupt(), "interrupted after")],
)
def test_a_decision_stands_whatever_comes_after_it(
    tmp_path: Path, params: Params, error: BaseException, noted: str
) -> None:
    """A promoted night is no failed one: what went wrong is in the reason, and who starts the night still hears it."""
    paths = Paths(tmp_path)
    said: list[str] = []
    write_json(paths.registered, {"promoted": True, "reason": "it won", "policy": {"version": 5}})

    def work() -> None:
        with diary.opened(paths, params, WHEN, said.append) as entry:
            entry.stages["register"], entry.run_id = "ran", "a run that MLflow does not know"
            entry.decided(paths)
            with entry.tolerating("no experiment is kept"):
                raise OSError("no space left")
            raise error

    with pytest.raises(type(error)):
        work()
    [written] = history.read(paths)
    assert (written.outcome, written.policy_version) == ("promoted", 5)
    assert written.why.startswith(f"it won; no experiment is kept: OSError: no space left; {noted}")
    assert said[0].startswith("MLflow does not know how the night ended: ")
    assert (tmp_path / "told.txt").read_text().startswith("promoted")


def test_nothing_new_names_the_night_that_made_what_there_is(tmp_path: Path) -> None:
    """The last with a policy, not one that failed since."""
    paths = Paths(tmp_path)
    assert diary.nothing_new(paths) == "nothing new: everything is up to date"
    history.append(paths, night("not promoted"))
    history.append(paths, Night.failed("night-y", WHEN, "no"))
    assert diary.nothing_new(paths) == "nothing new since night-x: nothing to do"
    assert json.loads((paths.nights / "history.jsonl").read_text().splitlines()[0])["policy_version"] == 4
