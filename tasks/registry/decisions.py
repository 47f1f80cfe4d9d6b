"""Who was made champion, when and why: nights/decisions.jsonl, a line per decision; imports nothing heavy."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.files import append_record, read_records
from tasks.paths import Paths


class Decision(BaseModel):
    """One decision on the champion.

    Attributes:
        when: ISO, with its time zone.
        version: the policy version that was decided on.
        promoted: whether it is the champion now.
        by: `gates`, or `rollback` or `forget` where a person decided.
        reason: in a sentence, with the numbers; of a rollback what the person said.
        findings: `{name, passed, text}` of each gate; none where a person decided.
        figures: the numbers that the gates looked at.
        champion_before: the policy version that was champion, None where none was.
        champion_after: the one that is champion now.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")

    when: str
    version: int
    promoted: bool
    by: str
    reason: str
    findings: list[dict[str, Any]]
    figures: dict[str, float]
    champion_before: int | None
    champion_after: int | None


def now() -> str:
    """This moment, as decisions write it."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


def append(paths: Paths, decision: Decision) -> None:
    """Adds a decision."""
    append_record(paths.nights / "decisions.jsonl", decision)


def read(paths: Paths) -> list[Decision]:
    """All decisions, the oldest first; none where nothing was decided yet.

    Raises:
        ValueError: a line is no decision; it names the file and the line.
    """
    path = paths.nights / "decisions.jsonl"
    return read_records(path, Decision) if path.is_file() else []
