"""The open night: whatever ends it, it is written to the history and people are told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from tasks import cron
from tasks.deadline import DeadlineError
from tasks.params.night import NightOutcome
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.registry import versions
from tasks.reports import summary
from tasks.scheduling import history
from tasks.scheduling.history import Night
from tasks.scheduling.notify import notify
from tasks.tracking import mlflow_store, tracker
from tasks.trials import standings


@dataclass
class Entry:
    """What will be written of a night; it is filled in as the night goes on.

    Attributes:
        stage: the one at work.
        stages: how each one came up to date, so far: ran, cached or restored.
    """

    name: str
    started: datetime
    outcome: NightOutcome = "failed"
    why: str = ""
    stage: str | None = None
    stages: dict[str, str] = field(default_factory=dict)
    policy_version: int | None = None
    experiment: str | None = None
    run_id: str | None = None

    def end(self, outcome: NightOutcome, why: str) -> None:
        """Says how the night ended."""
        self.outcome, self.why = outcome, why

    def break_off(self, outcome: NightOutcome, why: str) -> None:
        """Says what ended the night before its time; a decision that was made by then stands."""
        if self.policy_version is None:
            self.end(outcome, f"{self.stage or 'before the stages'}: {why}")
        else:
            self.why += f"; {outcome} after the decision: {why}"

    @contextmanager
    def beside(self, what: str) -> Iterator[None]:
        """Around what follows the decision: an error is written down with what it cost, and ends nothing."""
        try:
            yield
        except Exception as error:
            self.why += f"; {what}: {type(error).__name__}: {error}"

    def decided(self, paths: Paths) -> None:
        """Takes over what register said of the night's policy."""
        report = json.loads(paths.registered.read_text(encoding="utf-8"))
        self.policy_version = report["policy"]["version"]
        if self.stages["register"] == "cached":
            self.end("nothing new", f"what ran made version {self.policy_version} again, which is registered already")
        else:
            self.end("promoted" if report["promoted"] else "not promoted", report["reason"])

    def night(self) -> Night:
        """The night as it is written down."""
        return Night(
            name=self.name,
            started=self.started,
            ended=datetime.now().astimezone(),
            outcome=self.outcome,
            why=self.why,
            policy_version=self.policy_version,
            experiment=self.experiment,
            run_id=self.run_id,
        )


@contextmanager
def opened(paths: Paths, params: Params, planned: datetime, say: Callable[[str], None]) -> Iterator[Entry]:
    """Opens a night's entry; its end is written down and told whether the night ends well, fails or is interrupted.

    A deadline that was reached is an orderly end; other errors go on to the caller.

    Args:
        planned: the time that the night is named after.
        say: hears what becomes of the night, and of telling people.
    """
    entry = Entry(cron.name(planned, params.night.timezone), datetime.now().astimezone())
    try:
        yield entry
    except DeadlineError as error:
        entry.end("deadline", str(error))
    except Exception as error:
        entry.break_off("failed", str(error))
        raise
    except BaseException as error:
        entry.break_off("interrupted", type(error).__name__)
        raise
    finally:
        close(paths, params, entry, say)


def close(paths: Paths, params: Params, entry: Entry, say: Callable[[str], None]) -> None:
    """Writes a night down and tells people."""
    night = entry.night()
    history.append(paths, night)
    if night.run_id is not None:
        try:
            conclude(paths, params, night)
        except Exception as error:
            say(f"MLflow was not told how the night ended: {type(error).__name__}: {error}")
    said = night.why if night.why.startswith(night.outcome) else f"{night.outcome}: {night.why}"
    say(f"{night.name}: {said}")
    if trouble := notify(night, params.night, paths.root):
        say(trouble)


def conclude(paths: Paths, params: Params, night: Night) -> None:
    """Tells MLflow how a night ended, which policy came of it, and who is champion."""
    assert night.run_id is not None
    champion = versions.champion_of(mlflow_store.open_client(paths), params.register_.name)
    tags = {"outcome": night.outcome, "why": night.why, "champion": f"v{champion.version}" if champion else "none yet"}
    text = f"**{night.outcome}**: {night.why}\n"
    if night.policy_version is not None:
        tags["policy_version"] = f"v{night.policy_version}"
        text += f"\n{summary.markdown(standings.chosen(paths, params)[0])}"
    tracker.annotate_night(paths, night.run_id, tags, text)


def nothing_new(paths: Paths) -> str:
    """What a night says in which nothing is due."""
    last = next((night for night in reversed(history.read(paths)) if night.policy_version is not None), None)
    return f"nothing new since {last.name}: nothing to do" if last else "nothing new: everything is up to date"
