"""Files as rows: JSONL, tables as text, and Parquet; all but the last may be compressed."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

from tasks.files import foreign_format, json_over_lines, parse_json
from tasks.sources.rows import Problems, RawRow, without_gaps
from tasks.sources.table import table_rows

Lines = Iterable[tuple[int, str]]
Rows = Iterator[tuple[int, dict[str, Any]]]


def _zstandard(path: Path, mode: str) -> IO[bytes]:
    import pyarrow

    return io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd"))


OPENERS: dict[str, Callable[[Path, str], Any]] = {
    "": open,
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstandard,
}
"""By how a file is compressed, how its bytes are read."""


def open_unpacked(path: Path) -> Any:
    """Opens a file to read its bytes, unpacked where its name says that it is compressed."""
    return OPENERS[_compression(path.name.lower())](path, "rb")


def _text_lines(path: Path, shown: str, problems: Problems) -> Iterator[tuple[int, str]]:
    compression = _compression(path.name.lower())
    with open_unpacked(path) as stream:
        try:
            for number, line in enumerate(stream, 1):
                if number == 1 and (fault := foreign_format(line)):
                    problems.add(f"{shown}: {fault}")
                    return
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    problems.add(f"{shown}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8")
                    yield number, "\n"  # an empty line keeps the count of the lines that follow
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            if not compression:
                raise
            kind = {".gz": "gzip"}.get(compression, compression.removeprefix("."))
            problems.add(f"{shown}: not a whole {kind} file ({error}); compress it again")


def _compression(name: str) -> str:
    return next((end for end in OPENERS if end and name.endswith(end)), "")


def jsonl_rows(lines: Lines, shown: str, problems: Problems) -> Rows:
    """Yields (line, object) of each line that holds one; the others are added to `problems`."""
    for number, line in lines:
        if not line.strip():
            continue
        if number == 1 and (fault := json_over_lines(line, shown)):
            problems.add(f"{shown}:1: {fault}")
            return
        try:
            row = parse_json(line)
            # Half of a surrogate pair passes json.loads and would break the first write.
            if "\\ud" in line.lower():
                json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            problems.add(f"{shown}:{number}: half of a surrogate pair (\\ud…); write the whole character")
        except (json.JSONDecodeError, RecursionError) as error:
            problems.add(f"{shown}:{number}: not JSON ({error}); write one JSON object a line")
        except ValueError as error:
            problems.add(f"{shown}:{number}: {error}")
        else:
            if isinstance(row, dict):
                yield number, row
            else:
                problems.add(f"{shown}:{number}: found {type(row).__name__}; write one JSON object a line")


PARSERS: dict[str, Callable[[Lines, str, Problems], Rows]] = {
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".csv": table_rows,
    ".tsv": partial(table_rows, delimiter="\t"),
}
"""By a file's suffix, how its numbered lines become rows; each may be compressed, as OPENERS say."""
PARQUET = ".parquet"
SUFFIXES = (*(f"{suffix}{compressed}" for suffix in PARSERS for compressed in OPENERS), PARQUET)
READABLE = f"{', '.join((*PARSERS, PARQUET))}; all but the last may be compressed ({', '.join(filter(None, OPENERS))})"
"""SUFFIXES in words."""


def suffix_of(path: Path) -> str | None:
    """The suffix of a file that can be read, such as `.jsonl` or `.csv.gz`, in small letters; None for any other."""
    name = path.name.lower()
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), None)


def stem_of(path: Path) -> str:
    """The name of a file that can be read, without its suffix."""
    return path.name[: len(path.name) - len(suffix_of(path) or "")]


def rankings_name(name: str) -> str | None:
    """The name of a file of rankings once they are validated: as JSONL; None for what cannot hold rankings."""
    suffix = suffix_of(Path(name))
    if suffix is None or suffix.startswith((".csv", ".tsv")):
        return None
    return f"{name[: len(name) - len(suffix)]}.jsonl"


def files_below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files below a folder, by name, those of linked folders too.

    Raises:
        FileNotFoundError: a link leads nowhere.
        ValueError: a link leads back to a folder that it is in.
    """
    above = (*above, folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.is_symlink() and path.resolve() in above:
                raise ValueError(f"{path}: a link to {os.readlink(path)}, a folder that it is in; remove the link")
            yield from files_below(path, above)
        else:
            yield check_link(path)


def check_link(path: Path) -> Path:
    """The path; raises FileNotFoundError where it is a link that leads nowhere."""
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"{path}: a link to {os.readlink(path)}, which does not exist; put the file there, or remove the link"
        )
    return path


def read_file(path: Path, shown: str, problems: Problems) -> list[RawRow]:
    """All well-formed rows of one file; see `iter_file`."""
    return list(iter_file(path, shown, problems))


def iter_file(path: Path, shown: str, problems: Problems) -> Iterator[RawRow]:
    """Yields the well-formed rows of one file; the others are added to `problems`.

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
        raise ValueError(f"{shown}: found a {path.suffix or 'nameless'} file; expected one of {READABLE}")
    if not path.is_file():
        raise FileNotFoundError(f"{shown}: no such file; put it there or name another one")
    before, rows = len(problems.messages), 0
    for line, values in numbered_rows(path, shown, problems):
        rows += 1
        yield RawRow(f"{shown}:{line}", stem_of(path), line, values)
    if not rows and len(problems.messages) == before:
        problems.add(f"{shown}: the file is empty; give at least one row")


def numbered_rows(path: Path, shown: str, problems: Problems) -> Rows:
    """Yields (line, row) of each well-formed row of a file with one of the SUFFIXES; see `read_file`."""
    suffix = str(suffix_of(path))
    if suffix == PARQUET:
        return parquet_rows(path, shown, problems)
    return PARSERS[suffix.removesuffix(_compression(suffix))](_text_lines(path, shown, problems), shown, problems)


def parquet_rows(path: Path, shown: str, problems: Problems) -> Rows:
    """Yields (number, row) of each row of a Parquet file, without its empty cells; problems are collected."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as table:
            rows = [row for batch in table.iter_batches() for row in batch.to_pylist()]
    except (OSError, pyarrow.ArrowException) as error:
        problems.add(f"{shown}: not a whole Parquet file ({str(error).splitlines()[0]:.200}); write it again")
        return
    for number, row in enumerate(rows, 1):
        try:
            yield number, parse_json(json.dumps(without_gaps(row), default=_as_text))
        except ValueError as error:
            problems.add(f"{shown}:{number}: {error}")


def _as_text(value: Any) -> str:
    """Dates and the like as text; bytes are none."""
    if isinstance(value, bytes):
        raise ValueError(f"found bytes ({value!r:.40}), which JSON cannot hold; write them as text, or leave them out")
    return str(value)
