"""Who was made champion, when and why: nights/decisions.jsonl, a line per decision; imports nothing heavy."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.paths import Paths


@dataclass(frozen=True)
class Decision:
    """One decision on the champion.

    Attributes:
        when: ISO, with its time zone.
        version: the policy version that was decided on.
        promoted: whether it is the champion now.
        by: `gates`, or `rollback` where a person decided.
        reason: in a sentence, with the numbers; of a rollback what the person said.
        findings: `{name, passed, text}` of each gate; none of a rollback.
        figures: the numbers that the gates looked at.
        champion_before: the policy version that was champion, None where none was.
        champion_after: the one that is champion now.
    """

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


def file_of(paths: Paths) -> Path:
    """Where decisions are written."""
    return paths.nights / "decisions.jsonl"


def append(paths: Paths, decision: Decision) -> None:
    """Adds a line to the decisions."""
    file = file_of(paths)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(decision), ensure_ascii=False) + "\n")


def read(paths: Paths) -> list[Decision]:
    """All decisions, the oldest first; none where nothing was decided yet."""
    file = file_of(paths)
    if not file.is_file():
        return []
    return [Decision(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
