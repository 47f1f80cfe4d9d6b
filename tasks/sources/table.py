"""CSV as the equivalent JSON rows.

Columns: id, prompt, and response, or references (a JSON list) or reference_1, reference_2, …; any other
column travels along as text. A prompt cell may hold chat messages as JSON.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from typing import Any

from tasks.sources.rows import Problems


def table_rows(
    lines: Iterable[tuple[int, str]], shown: str, problems: Problems
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (first line, row) of a table whose first row names the columns; problems are collected."""
    reader = csv.reader((line for _, line in lines), strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1  # a quoted cell may run over lines; the row is named by its first
        try:
            cells = next(reader, None)
        except csv.Error as error:
            problems.add(f"{shown}:{start}: not CSV ({error}); quote cells that hold commas or quotes")
            return
        if cells is None:
            return
        if header is None:
            header = _header(cells, shown, problems)
            if header is None:
                return
        elif cells and len(cells) != len(header):
            problems.add(f"{shown}:{start}: {len(cells)} cells for {len(header)} columns; quote cells with commas")
        elif cells:
            yield from _json_row(dict(zip(header, cells, strict=True)), f"{shown}:{start}", start, problems)


def _header(cells: list[str], shown: str, problems: Problems) -> list[str] | None:
    names = [cell.strip() for cell in cells]
    if "prompt" in names and len(set(names)) == len(names):
        return names
    problems.add(
        f"{shown}:1: columns are {', '.join(names)}; expected prompt with response, or prompt with "
        "references (a JSON list) or reference_1, reference_2, …, each column once"
    )
    return None


def _json_row(
    cells: dict[str, str], location: str, start: int, problems: Problems
) -> Iterator[tuple[int, dict[str, Any]]]:
    """A CSV row as the equivalent JSON row; an empty `id` or `split` cell counts as absent."""
    row: dict[str, Any] = {
        name: cell
        for name, cell in cells.items()
        if not name.startswith("reference") and (cell or name not in ("id", "split"))
    }
    numbered = [cell for name, cell in cells.items() if name.startswith("reference_") and cell]
    if "references" in cells or any(name.startswith("reference_") for name in cells):
        listed = cells.get("references", "").strip()
        try:
            row["references"] = (json.loads(listed) if listed else []) + numbered
        except (ValueError, TypeError):
            problems.add(f'{location}: references is {listed!r:.60}; write a JSON list such as ["one", "two"]')
            return
    if row["prompt"].lstrip().startswith('[{"role"'):
        try:
            row["prompt"] = json.loads(row["prompt"])
        except ValueError as error:
            problems.add(f"{location}: prompt opens as chat messages but is not JSON ({error})")
            return
    yield start, row
