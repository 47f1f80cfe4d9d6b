"""The nights that were, one line each in nights/history.jsonl: when, how it ended and why; imports nothing heavy."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from tasks.files import append_record, read_records
from tasks.params.night import NightOutcome
from tasks.paths import Paths


class Night(BaseModel):
    """One night, once it is over.

    Attributes:
        name: `night-2026-11-21-0200`, in the schedule's time zone.
        planned: the instant that it was planned for, or began at by hand.
        policy_version: the registered policy that it made.
        experiment: the DVC experiment that restores it.
        run_id: its MLflow run.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    started: datetime
    ended: datetime
    outcome: NightOutcome
    why: str
    planned: datetime | None = None
    policy_version: int | None = None
    experiment: str | None = None
    run_id: str | None = None

    @classmethod
    def failed(cls, name: str, started: datetime, why: str) -> Night:
        """A night that failed before it could open its entry."""
        return cls(name=name, started=started, ended=datetime.now().astimezone(), outcome="failed", why=why)


def append(paths: Paths, night: Night) -> None:
    """Adds a night."""
    append_record(paths.nights / "history.jsonl", night)


def read(paths: Paths) -> list[Night]:
    """All nights, oldest first; none where no night ever ran.

    Raises:
        ValueError: a line is no night; it names the file and the line.
    """
    path = paths.nights / "history.jsonl"
    return read_records(path, Night) if path.is_file() else []
