"""The open night: however it ends, it is written to the history and people are notified."""

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
from tasks.user_errors import message_of


@dataclass
class Entry:
    """What will be recorded of a night; it is filled in while the night runs.

    Attributes:
        planned: the instant that the night is named after.
        stage: the one that runs now.
        stages: how each one came up to date, so far: ran, cached or restored.
    """

    name: str
    started: datetime
    planned: datetime
    outcome: NightOutcome = "failed"
    why: str = ""
    stage: str | None = None
    stages: dict[str, str] = field(default_factory=dict)
    policy_version: int | None = None
    experiment: str | None = None
    run_id: str | None = None

    def end(self, outcome: NightOutcome, why: str) -> None:
        """Records how the night ended."""
        self.outcome, self.why = outcome, why

    def break_off(self, outcome: NightOutcome, why: str) -> None:
        """Records what ended the night early; a decision made by then is kept."""
        if self.policy_version is None:
            self.end(outcome, f"{self.stage or 'before the stages'}: {why}")
        else:
            self.why += f"; {outcome} after the decision: {why}"

    @contextmanager
    def tolerating(self, what: str) -> Iterator[None]:
        """For work after the decision: an error is recorded with its consequence, and does not end the night."""
        try:
            yield
        except Exception as error:
            self.why += f"; {what}: {type(error).__name__}: {error}"

    def decided(self, paths: Paths) -> None:
        """Records what register decided on the night's policy."""
        report = json.loads(paths.registered.read_text(encoding="utf-8"))
        self.policy_version = report["policy"]["version"]
        if self.stages["register"] == "cached":
            self.end("nothing new", f"what ran made version {self.policy_version} again, which is registered already")
        else:
            self.end("promoted" if report["promoted"] else "not promoted", report["reason"])

    def night(self) -> Night:
        """The night as the history records it."""
        return Night(
            name=self.name,
            started=self.started,
            ended=datetime.now().astimezone(),
            outcome=self.outcome,
            why=self.why,
            planned=self.planned,
            policy_version=self.policy_version,
            experiment=self.experiment,
            run_id=self.run_id,
        )


@contextmanager
def opened(paths: Paths, params: Params, planned: datetime, say: Callable[[str], None]) -> Iterator[Entry]:
    """Opens a night's entry; its end is recorded and notified whether the night ends well, fails or is interrupted.

    A deadline that was reached is an orderly end; other errors are raised to the caller.

    Args:
        planned: the time that the night is named after.
        say: prints how the night ended, and whether people were notified.
    """
    entry = Entry(cron.name(planned, params.night.timezone), datetime.now().astimezone(), planned)
    try:
        yield entry
    except DeadlineError as error:
        entry.end("deadline", str(error))
    except Exception as error:
        entry.break_off("failed", message_of(error) or str(error))
        raise
    except BaseException as error:
        entry.break_off("interrupted", type(error).__name__)
        raise
    finally:
        close(paths, params, entry, say)


def close(paths: Paths, params: Params, entry: Entry, say: Callable[[str], None]) -> None:
    """Records a night and notifies people."""
    night = entry.night()
    history.append(paths, night)
    if night.run_id is not None:
        try:
            conclude(paths, params, night)
        except Exception as error:
            say(f"MLflow does not know how the night ended: {type(error).__name__}: {error}")
    text = night.why if night.why.startswith(night.outcome) else f"{night.outcome}: {night.why}"
    say(f"{night.name}: {text}")
    if trouble := notify(night, params.night, paths.root):
        say(trouble)


def conclude(paths: Paths, params: Params, night: Night) -> None:
    """Records in MLflow how a night ended, which policy it made, and who is champion."""
    assert night.run_id is not None
    champion = versions.champion_of(mlflow_store.open_client(paths), params.register_.name)
    tags = {"outcome": night.outcome, "why": night.why, "champion": f"v{champion.version}" if champion else "none yet"}
    text = f"**{night.outcome}**: {night.why}\n"
    if night.policy_version is not None:
        tags["policy_version"] = f"v{night.policy_version}"
        text += f"\n{summary.markdown(standings.chosen(paths, params)[0])}"
    tracker.annotate_night(paths, night.run_id, tags, text)


def nothing_new(paths: Paths) -> str:
    """The message of a night in which nothing is due."""
    last = next((night for night in reversed(history.read(paths)) if night.policy_version is not None), None)
    return f"nothing new since {last.name}: nothing to do" if last else "nothing new: everything is up to date"
