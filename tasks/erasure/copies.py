"""Copies of the rows that lie elsewhere than in the sources: which files hold some, by what stands in them.

A file is read as what it is, whatever it is called: JSON lines, a JSON document, a table, a page, compressed or not,
Parquet. Other binary files (weights, pictures, pickles) hold no rows.
"""

from __future__ import annotations

import html
import json
import lzma
import re
import sqlite3
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tasks.erasure.request import Request, objects, strings
from tasks.sources.files import OPENERS, parquet_rows
from tasks.sources.rows import Problems
from tasks.sources.table import table_rows

TAG = re.compile(r"<[^>]*>")
COMPRESSED = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\0": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
"""How compressed files open."""
PEEK_BYTES = 8192


def holding(files: Iterable[Path], request: Request) -> list[Path]:
    """Those of the files that hold a row which is to go, or a text that is such a row's alone."""
    return [file for file in files if holds(file, request)]


def holds(file: Path, request: Request) -> bool:
    """Whether a file holds a row that is to go, or a text that is such a row's alone."""
    text = text_of(file)
    if text is None or not text.strip():
        return False
    if text.lstrip()[:1] in ("{", "["):
        return any(_is_in(value, request) for value in _values(text))
    if text.lstrip().startswith("<"):
        return request.gives_away(html.unescape(part).strip() for part in TAG.split(text))
    rows = [row for _, row in table_rows(enumerate(text.splitlines(keepends=True), 1), file.name, Problems())]
    return any(_is_in(row, request) for row in rows) if rows else request.is_told(text)


def prompts(files: Iterable[Path], request: Request) -> Request:
    """The request with the prompts that files other than the sources have for its id."""
    rows = (row for file in files for row in _rows(file) if request.names(row))
    return request.of_prompts(rows)


def files_below(*folders: Path) -> Iterator[Path]:
    """All files below these folders, links left out."""
    for folder in folders:
        if folder.is_dir():
            yield from (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink())


def matching(file: Path, request: Request) -> list[Mapping[str, Any]]:
    """The rows of a file that are to go."""
    return [row for row in _rows(file) if request.matches(row)]


def _rows(file: Path) -> Iterator[Mapping[str, Any]]:
    text = text_of(file) or ""
    if text.lstrip()[:1] in ("{", "["):
        for value in _values(text):
            yield from objects(value)


def _is_in(value: Any, request: Request) -> bool:
    return any(request.matches(row) for row in objects(value)) or request.gives_away(strings(value))


def _values(text: str) -> Iterator[Any]:
    """The JSON of a text: one document, or one on each line; what is none is left out."""
    try:
        yield json.loads(text)
        return
    except (ValueError, RecursionError):
        pass
    for line in text.split("\n"):
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            continue


def quoting(database: Path, request: Request, tables: Collection[str] = ()) -> list[str]:
    """The columns of an SQLite database in which a text quotes the rows, as `table.column: 2 rows`.

    Args:
        tables: that are left out.
    """
    if not database.is_file():
        return []
    matches = []
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        connection.text_factory = lambda value: value.decode(errors="replace")
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in sorted({*names} - {*tables}):
            rows = connection.execute(f'SELECT * FROM "{table}"')
            columns = [column for column, *_ in rows.description]
            counts = Counter(
                column
                for row in rows
                for column, value in zip(columns, row, strict=True)
                if isinstance(value, str) and any(request.is_quoted(text) for text in strings(value))
            )
            matches += [f"{table}.{column}: {count} rows" for column, count in counts.items()]
    return matches


def text_of(file: Path) -> str | None:
    """A file's text, unpacked where it is compressed, Parquet's rows as JSON lines; None where it is binary."""
    with file.open("rb") as stream:
        start = stream.read(PEEK_BYTES)
    if start.startswith(b"PAR1"):
        return "\n".join(json.dumps(row) for _, row in parquet_rows(file, file.name, Problems()))
    how = next((how for sign, how in COMPRESSED.items() if start.startswith(sign)), "")
    if not how and b"\0" in start:
        return None
    try:
        with OPENERS[how](file, "rb") as stream:
            content: bytes = stream.read()
        return content.decode("utf-8-sig")
    except (UnicodeDecodeError, EOFError, zlib.error, lzma.LZMAError):
        return None
    except OSError:  # how broken gzip, bz2 and zstd files are told
        if not how:
            raise
        return None
