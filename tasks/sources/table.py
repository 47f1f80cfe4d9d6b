"""Tables as text (CSV, TSV) as the equivalent JSON rows.

Cells stand between commas (in a .tsv tabs), or between semicolons or tabs, as spreadsheets write them where the comma
is decimal.
Columns: id, prompt, and response, or references (a JSON list) or reference_1, reference_2, …; any other
column travels along as text. A prompt cell may hold chat messages as JSON.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

from tasks.files import parse_json
from tasks.sources.rows import Problems
from tasks.sources.shapes import advice_on, shape_of

LONGEST_CELL = 2**31 - 1
"""Characters; the library's own limit is less than a line of JSON may hold."""
SEPARATOR = re.compile(r'\s*"?sep=(.)"?\s*', re.IGNORECASE)
"""A first line that tells a spreadsheet what stands between cells."""
NUMBERED = re.compile(r"reference_\d+")
CHAT = re.compile(r"""\s*\[\s*\{\s*['"](role|content)['"]""")
"""How chat messages open, in JSON or as Python prints them."""


def table_rows(
    lines: Iterable[tuple[int, str]], shown: str, problems: Problems, delimiter: str = ","
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (first line, row) of a table whose first row names the columns; problems are collected."""
    texts = (line for _, line in lines)
    if not (first := next(texts, "")):
        return
    separator = SEPARATOR.fullmatch(first)
    if separator:
        delimiter, first = separator[1], next(texts, "")
    elif "," not in first:
        delimiter = next((mark for mark in ";\t" if _has_prompt(first.split(mark))), delimiter)
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(itertools.chain([first], texts), strict=True, delimiter=delimiter)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1 + bool(separator)  # a quoted cell may run over lines; the row is named by its first
        try:
            cells = next(reader, None)
        except csv.Error as error:
            cure = "quote cells that hold commas or quotes, and double those inside"
            if "end of data" in str(error):
                cure = "a cell's quote opens in this row and never closes; close it, and double those inside"
            problems.add(f"{shown}:{start}: not CSV ({error}); {cure}")
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


def _has_prompt(cells: list[str]) -> bool:
    return "prompt" in [cell.strip().strip('"') for cell in cells]


def _header(cells: list[str], shown: str, problems: Problems) -> list[str] | None:
    names = [cell.strip() for cell in cells]
    if "prompt" in names and len(set(names)) == len(names):
        return names
    if len(set(names)) == len(names) and (shape := shape_of(set(names))):
        problems.add(f"{shown}: the rows are {shape.name}; {advice_on(shape, shown)}")
        return None
    problems.add(
        f"{shown}:1: columns are {', '.join(names)}; expected prompt with response, or prompt with "
        "references (a JSON list) or reference_1, reference_2, …, each column once"
    )
    return None


def _json_row(
    cells: dict[str, str], location: str, start: int, problems: Problems
) -> Iterator[tuple[int, dict[str, Any]]]:
    """A row of the table as the equivalent JSON row; an empty `id` or `split` cell counts as absent.

    So does an empty `response` beside references: that row is a prompt of a table which holds both kinds.
    """
    references = {name for name in cells if name == "references" or NUMBERED.fullmatch(name)}
    row: dict[str, Any] = {
        name: cell for name, cell in cells.items() if name not in references and (cell or name not in ("id", "split"))
    }
    numbered = [cells[name] for name in cells if name in references - {"references"} and cells[name]]
    if references:
        listed = cells.get("references", "").strip()
        try:
            row["references"] = (parse_json(listed) if listed else []) + numbered
        except (ValueError, TypeError):
            problems.add(f'{location}: references is {listed!r:.60}; write a JSON list such as ["one", "two"]')
            return
        if row["references"] and row.get("response") == "":
            del row["response"]
    if CHAT.match(row["prompt"]):
        try:
            row["prompt"] = parse_json(row["prompt"])
        except ValueError as error:
            problems.add(f"{location}: prompt opens as chat messages but is not JSON ({error})")
            return
    yield start, row
