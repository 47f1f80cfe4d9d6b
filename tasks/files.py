"""Reading and writing JSONL: every error names the file and the line, every write is atomic."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn, TextIO, TypeVar

from pydantic import BaseModel, ValidationError

RecordT = TypeVar("RecordT", bound=BaseModel)


def read_rows(path: Path, constants: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) of a JSONL file, plain or gzip; blank lines are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not UTF-8 or not a JSON object, the file is no whole gzip file, or it holds no row.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the path of a JSONL file (plain or .gz)")
    rows = 0
    for number, line in enumerate(_lines(path), 1):
        if number == 1 and (fault := foreign_format(line)):
            raise ValueError(f"{path}: {fault}")
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if not text.strip():
                continue
            if number == 1 and (fault := json_over_lines(text, str(path))):
                raise ValueError(fault)
            row = parse_json(text, constants)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}:{number}: not UTF-8 ({error.reason}); save the file as UTF-8") from None
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path}:{number}: not JSON ({error}); write one JSON object a line") from None
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: found {type(row).__name__}; write one JSON object a line")
        rows += 1
        yield number, row
    if not rows:
        raise ValueError(f"{path}: the file is empty; give at least one row")


FOREIGN = (
    (b"\xff\xfe", "text in UTF-16; save the file as UTF-8"),
    (b"\xfe\xff", "text in UTF-16; save the file as UTF-8"),
    (b"PK\x03\x04", "a zip archive; unpack it, or save the spreadsheet that it is as CSV in UTF-8"),
    (b"PAR1", "a Parquet file; call it .parquet"),
    (b"\x1f\x8b", "a gzip file; unpack it, or call it .gz if it was compressed once"),
    (b"BZh", "a bzip2 file; unpack it, or call it .bz2 if it was compressed once"),
    (b"\xfd7zXZ", "an xz file; unpack it, or call it .xz if it was compressed once"),
    (b"\x28\xb5\x2f\xfd", "a zstd file; unpack it, or call it .zst if it was compressed once"),
)
"""The first bytes of files that are no UTF-8 text, with what they are and what to do."""


def foreign_format(start: bytes) -> str:
    """What a file is that should be UTF-8 text, by its first bytes, and what to do; empty where it may well be text."""
    kind = next((kind for magic, kind in FOREIGN if start.startswith(magic)), "")
    if not kind and b"\0" in start[:2]:
        kind = FOREIGN[0][1]  # a character of ASCII has a zero byte beside it
    return f"found {kind}" if kind else ""


def json_over_lines(first: str, shown: str) -> str:
    """What to do where a file's first line opens JSON that goes on below it; empty where it does not."""
    opened = first.strip().replace(" ", "")
    goes_on = opened in ("[", "{", "[{") and first.endswith("\n")
    if not goes_on and not (opened.startswith("[{") and opened.endswith("}]")):
        return ""
    advice = "found JSON that is not one object a line; write it so"
    if not shown.lower().endswith((".jsonl", ".ndjson")):
        return advice
    program, name = ("." if opened == "{" else ".[]"), quote(shown)
    return f"{advice}\n  jq -c '{program}' {name} > {name}.new && mv {name}.new {name}"


def parse_json(text: str, constants: bool = False) -> Any:
    """The JSON value of a text, no part of which is lost on the way.

    Args:
        text: JSON.
        constants: whether NaN and Infinity are read, which records of ours may hold.

    Raises:
        json.JSONDecodeError: the text is not JSON.
        ValueError: a key occurs twice in one object, or a number is none that a float can hold.
    """
    return (_LENIENT if constants else _STRICT).decode(text)


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} occurs {keys.count(twice)} times; keep the one that holds")
    return values


def _float_of(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"the number {digits:.40} is above what can be kept; correct it")
    return number


def _int_of(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"the number {digits:.40}… has {len(digits)} digits; correct it")
    return int(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value; give a number, or leave the field out")


LONGEST_INTEGER = 4300
"""Digits of a number that Python reads."""
_STRICT = json.JSONDecoder(
    object_pairs_hook=_object_of, parse_float=_float_of, parse_int=_int_of, parse_constant=_refuse_constant
)
_LENIENT = json.JSONDecoder(object_pairs_hook=_object_of, parse_float=_float_of, parse_int=_int_of)


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, plain or gzip."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as stream:
        try:
            yield from stream
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: not a whole gzip file ({error}); compress it again") from None


def read_records(path: Path, record: type[RecordT], may_be_empty: bool = False) -> list[RecordT]:
    """All rows of a JSONL file as records; raises ValueError naming file, line, field and reason.

    An empty file is an error, unless it is one that a stage writes whether or not it has rows for it.
    """
    if may_be_empty and path.is_file() and not path.stat().st_size:
        return []
    return list(iter_records(path, record))


def iter_records(path: Path, record: type[RecordT]) -> Iterator[RecordT]:
    """Yields what `read_records` returns, one after the other, with its errors."""
    return (as_record(row, record, f"{path}:{number}") for number, row in read_rows(path, constants=True))


def as_record(row: dict[str, Any], record: type[RecordT], location: str) -> RecordT:
    """One row as a record; raises ValueError that opens with `location`."""
    try:
        return record.model_validate(row)
    except ValidationError as error:
        raise ValueError(f"{location}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """A pydantic error as one line: each field with what is wrong and the value found."""
    reasons = []
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]] or [""]
        if location[0] == "prompt" and location[1:2] in (["str"], ["list[Message]"]):
            reasons += _explain_prompt(location[2:], problem["input"])
            continue
        field = ".".join(location)
        message = problem["msg"].removeprefix("Value error, ")
        value = "" if problem["type"] in ("missing", "value_error") else f" (found {problem['input']!r:.80})"
        reasons.append(f"{field}: {message}{value}" if field else f"{message}{value}")
    return "; ".join(dict.fromkeys(reasons))


def _explain_prompt(keys: list[str], value: Any) -> list[str]:
    """What is wrong with a prompt that is neither a text nor chat messages: one reason, whichever it was meant to be.

    Args:
        keys: where in the messages: their number, and a field; empty where the whole is meant.
        value: what is there.
    """
    if not keys:
        return [] if isinstance(value, list) else [f"prompt: give a text, or chat messages (found {value!r:.80})"]
    turn = f"prompt: message {int(keys[0]) + 1}"
    if isinstance(value, dict):
        return [f"{turn} needs role and content, both as text (found {', '.join(value) or 'nothing'})"]
    if keys[1:] == ["content"] and isinstance(value, list):
        return [f"{turn}: content in parts is not read; give its text (found {value!r:.80})"]
    return [f"{'.'.join([turn, *keys[1:]])} is to be text (found {value!r:.80})"]


def write_records(path: Path, records: Iterable[BaseModel]) -> int:
    """Writes records as JSONL and returns their number; a failure leaves the old file as it was."""
    return write_rows(path, (record.model_dump(mode="json") for record in records))


def append_record(path: Path, record: BaseModel) -> None:
    """Adds a record to a JSONL file; see `append_row`."""
    _append(path, record.model_dump_json())


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Adds an object to a JSONL file: one write of one line, so that a crash leaves a complete line or none."""
    _append(path, json.dumps(row, ensure_ascii=False, allow_nan=False))


def _append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    line = text + "\n"
    with path.open("ab", buffering=0) as stream:
        stream.write(line.encode())
        os.fsync(stream.fileno())


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Writes objects as JSONL and returns their number; a failure leaves the old file as it was."""
    return write_lines(path, map(as_line, rows))


def as_line(row: dict[str, Any]) -> str:
    """An object as a line of JSONL, without its end."""
    return json.dumps(row, ensure_ascii=False)


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Writes lines of JSONL and returns their number; a failure leaves the old file as it was."""
    count = 0
    with _replacing(path) as stream:
        for line in lines:
            stream.write(line + "\n")
            count += 1
    return count


def write_json(path: Path, value: Any) -> None:
    """Writes one JSON document, keys sorted, for metrics and small tables."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text atomically: to a temporary file, which is then renamed."""
    with _replacing(path) as stream:
        stream.write(text)


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A temporary file to write to, which takes the path's place once all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8") as stream:
            yield stream
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full disk is met when the file is open
            error.filename = str(path)
        raise
    os.replace(partial, path)


def read_curve(path: Path) -> list[dict[str, float]]:
    """The rows of a table that `write_curve` wrote."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(stream)]


def write_curve(path: Path, rows: list[dict[str, float]]) -> None:
    """Writes step-by-step figures as CSV (first column `step`), the form that `dvc plots` draws."""
    if not rows:
        raise ValueError(f"{path}: a curve without a point; nothing was trained or measured")
    columns = list(rows[0])
    text = io.StringIO()
    text.write(",".join(columns) + "\n")
    for row in rows:
        text.write(",".join(f"{row[column]:.6g}" for column in columns) + "\n")
    write_text(path, text.getvalue())
