"""Records by the thousand in little memory: each is kept as its line of JSON, and made anew when it is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, overload

from rlhf.records import Record
from tasks.files import as_line, write_lines

RowT = TypeVar("RowT")
RecordT = TypeVar("RecordT", bound=Record)
AT_ONCE = 1000
"""Rows that are objects at one time: as columns they take a tenth, and a tokenizer holds kilobytes of each text."""


def batches(rows: Iterable[RowT]) -> Iterator[list[RowT]]:
    """Yields the rows, AT_ONCE at a time."""
    remaining = iter(rows)
    return iter(lambda: list(islice(remaining, AT_ONCE)), [])


class RecordLines(Sequence[RecordT]):
    """A sequence of valid records, each of which takes what its line takes: a fifth of what an object does.

    Args:
        record: their class.
        records: the first of them.
    """

    def __init__(self, record: type[RecordT], records: Iterable[RecordT] = ()) -> None:
        self.record = record
        self._lines: list[bytes] = []
        self._alike: Mapping[str, Any] = {}
        self.extend(records)

    def extend(self, records: Iterable[RecordT]) -> None:
        """Adds records behind those that there are."""
        self._lines.extend(as_line(record.model_dump(mode="json")).encode() for record in records)

    def chosen(self, rows: Iterable[int], **alike: Any) -> RecordLines[RecordT]:
        """The records at these positions, which share their memory with these ones.

        Args:
            rows: positions.
            alike: fields that all of them get, in place of their own.
        """
        chosen = RecordLines(self.record)
        chosen._lines = [self._lines[row] for row in rows]
        chosen._alike = {**self._alike, **alike}
        return chosen

    def write(self, path: Path) -> None:
        """Writes all records as JSONL; a failure leaves the old file as it was."""
        write_lines(path, (as_line(row) for row in self._rows()) if self._alike else map(bytes.decode, self._lines))

    def __len__(self) -> int:
        return len(self._lines)

    def __iter__(self) -> Iterator[RecordT]:
        return map(self.record.model_validate, self._rows())

    @overload
    def __getitem__(self, index: int) -> RecordT: ...
    @overload
    def __getitem__(self, index: slice) -> RecordLines[RecordT]: ...
    def __getitem__(self, index: int | slice) -> RecordT | RecordLines[RecordT]:
        if isinstance(index, slice):
            return self.chosen(range(len(self))[index])
        return self.record.model_validate({**json.loads(self._lines[index]), **self._alike})

    def _rows(self) -> Iterator[dict[str, Any]]:
        return ({**json.loads(line), **self._alike} for line in self._lines)
