"""JSONL and CSV files, plain or gzip, as rows."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from tasks.sources.rows import Problems, RawRow
from tasks.sources.table import table_rows


def _text_lines(path: Path, shown: str, problems: Problems) -> Iterator[tuple[int, str]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as stream:
        try:
            for number, line in enumerate(stream, 1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    problems.add(f"{shown}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8")
                    yield number, "\n"  # an empty line keeps the count of the lines that follow
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            problems.add(f"{shown}: not a whole gzip file ({error}); compress it again")


def jsonl_rows(
    lines: Iterable[tuple[int, str]], shown: str, problems: Problems
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line, object) of each line that holds one; the others are added to `problems`."""
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
            # Half of a surrogate pair passes json.loads and would break the first write.
            if "\\ud" in line.lower():
                json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            problems.add(f"{shown}:{number}: half of a surrogate pair (\\ud…); write the whole character")
        except (ValueError, RecursionError) as error:
            problems.add(f"{shown}:{number}: not JSON ({error}); write one JSON object a line")
        else:
            if isinstance(row, dict):
                yield number, row
            else:
                problems.add(f"{shown}:{number}: found {type(row).__name__}; write one JSON object a line")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


Parser = Callable[[Iterable[tuple[int, str]], str, Problems], Iterator[tuple[int, dict[str, Any]]]]
PARSERS: dict[str, Parser] = {".jsonl": jsonl_rows, ".csv": table_rows}
"""By a file's suffix, how its numbered lines become rows; each may be compressed (`.gz`)."""
SUFFIXES = tuple(f"{suffix}{compressed}" for suffix in PARSERS for compressed in ("", ".gz"))


def suffix_of(path: Path) -> str | None:
    """The suffix of a file that can be read, such as `.jsonl` or `.csv.gz`; None for any other."""
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if path.name.endswith(suffix)), None)


def read_file(path: Path, shown: str, problems: Problems) -> list[RawRow]:
    """All well-formed rows of one file; the others are added to `problems`.

    Args:
        path: a file with one of the SUFFIXES.
        shown: the file's name in messages.
        problems: collects malformed rows.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the suffix is not known.
    """
    suffix = suffix_of(path)
    if suffix is None:
        raise ValueError(f"{shown}: found a {path.suffix or 'nameless'} file; expected one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"{shown}: no such file; put it there or name another one")
    before = len(problems.messages)
    parse = PARSERS[suffix.removesuffix(".gz")]
    stem = path.name.removesuffix(suffix)
    rows = [
        RawRow(f"{shown}:{line}", stem, line, values)
        for line, values in parse(_text_lines(path, shown, problems), shown, problems)
    ]
    if not rows and len(problems.messages) == before:
        problems.add(f"{shown}: the file is empty; give at least one row")
    return rows
