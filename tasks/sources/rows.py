"""Rows with the place where each was read, and the problems found while reading them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel

from tasks.files import as_record

RecordT = TypeVar("RecordT", bound=BaseModel)


@dataclass(frozen=True)
class Row:
    """One row as it was read, with its place (`file:line`) for messages."""

    place: str
    name: str
    """The file's name without suffixes: the stem of made ids."""
    line: int
    values: dict[str, Any]


@dataclass
class Problems:
    """Malformed rows found so far, each a line that opens with its place."""

    found: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        self.found.append(problem)

    def stop(self, shown: int = 10) -> None:
        """Raises ValueError with the first problems and the number of the others, if there are any."""
        if not self.found:
            return
        more = len(self.found) - shown
        lines = self.found[:shown] + ([f"… and {more} more"] if more > 0 else [])
        count = f"{len(self.found)} malformed rows; mend them and run again; nothing was written\n"
        raise ValueError("\n".join(lines) if len(self.found) == 1 else count + "\n".join(lines))


def as_records(rows: Iterable[Row], record: type[RecordT], problems: Problems) -> list[RecordT]:
    """Rows as records with ids that occur once; what does not fit is added to `problems`."""
    records, places = [], dict[str, str]()
    for row in rows:
        try:
            made = as_record(row.values, record, row.place)
        except ValueError as error:
            problems.add(str(error))
            continue
        identifier = getattr(made, "id", None)
        first = places.setdefault(identifier, row.place) if isinstance(identifier, str) else row.place
        if first != row.place:
            problems.add(f"{row.place}: id {identifier!r} stands at {first} already; give every row its own id")
        records.append(made)
    return records
