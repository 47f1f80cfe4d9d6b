"""Rows with the location of each, and the problems found while reading them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel

from tasks.files import as_record

LOCATED = re.compile(r"(.*?):(\d+): (.*)", re.DOTALL)
"""A message that opens with a file and a line."""
IN_BRACKETS = re.compile(r" \(.*\)", re.DOTALL)
RecordT = TypeVar("RecordT", bound=BaseModel)


@dataclass(frozen=True)
class RawRow:
    """One row as it was read, with its location (`file:line`) for messages."""

    location: str
    name: str
    """The file's name without suffixes: the stem of made ids."""
    line: int
    values: dict[str, Any]


def without_gaps(values: dict[str, Any]) -> dict[str, Any]:
    """A row of a table without its empty cells: a table has every column in every row."""
    return {name: value for name, value in values.items() if value is not None and value == value}  # NaN is no value


@dataclass
class Problems:
    """Malformed rows so far, a message each that opens with the row's location."""

    messages: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        self.messages.append(problem)

    def stop(self, shown: int = 10) -> None:
        """Raises ValueError with the first problems and the number of the others, if there are any."""
        if not self.messages:
            return
        messages = _grouped(self.messages)
        more = len(messages) - shown
        lines = messages[:shown] + ([f"… and {more} more"] if more > 0 else [])
        count = f"{len(self.messages)} malformed rows; fix them and run again; nothing was written\n"
        raise ValueError("\n".join(lines) if len(self.messages) == 1 else count + "\n".join(lines))


def _grouped(messages: list[str]) -> list[str]:
    """The messages, where one that several rows of a file get is told once, with their number.

    What each row holds stands in brackets, and may differ.
    """
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for message in messages:
        located = LOCATED.fullmatch(message)
        file, line, text = located.groups() if located else (message, "", "")
        groups.setdefault((file, IN_BRACKETS.sub("", text)), []).append((line, message))
    return [
        rows[0][1] + (f" (and {len(rows) - 1} more rows of the file, up to line {rows[-1][0]})" if rows[1:] else "")
        for rows in groups.values()
    ]


def as_records(rows: Iterable[RawRow], record: type[RecordT], problems: Problems) -> list[RecordT]:
    """Rows as records with ids that occur once; what does not fit is added to `problems`."""
    return list(iter_as_records(rows, record, problems))


def iter_as_records(rows: Iterable[RawRow], record: type[RecordT], problems: Problems) -> Iterator[RecordT]:
    """Yields what `as_records` returns, one after the other."""
    locations = dict[str, str]()
    for row in rows:
        try:
            made = as_record(row.values, record, row.location)
        except ValueError as error:
            problems.add(str(error))
            continue
        identifier = getattr(made, "id", None)
        first = locations.setdefault(identifier, row.location) if isinstance(identifier, str) else row.location
        if first != row.location:
            problems.add(f"{row.location}: id {identifier!r} is at {first} already; give every row its own id")
        yield made
