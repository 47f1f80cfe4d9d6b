"""The rows of data/source and data/feedback that are to go, and their files without them: all rewritten, or none."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.digests import NOTE
from tasks.erasure.request import Request, identifier
from tasks.paths import Paths
from tasks.sources.files import PARQUET, files_below, numbered_rows, open_unpacked, stem_of, suffix_of
from tasks.sources.rows import Problems

NEW, OLD = ".forget.partial", ".before.partial"
"""What files end in while they are rewritten; git and DVC ignore both."""


@dataclass(frozen=True)
class SourceRow:
    """A row and its lines, counted from 1: `last` is the one before the next row's. Parquet's rows are lines."""

    first: int
    last: int
    values: dict[str, Any]


@dataclass(frozen=True)
class SourceFile:
    """A file that people gave.

    Attributes:
        shown: its path from the workspace's root.
        rows: all of them; one without an id has the one that ingest makes for it.
        made: the first lines of the rows whose id is made.
        content: the file's bytes, as they are.
        lines: its lines, unpacked; none of Parquet.
    """

    path: Path
    shown: str
    rows: list[SourceRow]
    made: frozenset[int]
    content: bytes
    lines: list[bytes]

    def chosen(self, request: Request) -> list[SourceRow]:
        """The rows that are to go."""
        return [row for row in self.rows if request.matches(row.values)]

    def values(self, row: SourceRow) -> dict[str, Any]:
        """What a row holds, without an id that is made."""
        made = row.first in self.made
        return {name: value for name, value in row.values.items() if not (made and name == "id")}

    def without(self, rows: Sequence[SourceRow]) -> bytes | None:
        """The file's bytes without these rows; None where none is left.

        All other lines stay as they are. Where ids are made from lines, empty lines stand for what has gone, so that
        every other row keeps its id; Parquet, which has no empty lines, gets a column of the ids.
        """
        if len(rows) == len(self.rows):
            return None
        gone = {line for row in rows for line in range(row.first, row.last + 1)}
        if suffix_of(self.path) == PARQUET:
            ids = [name_of(row) for row in self.rows if row.first not in gone] if self.made else None
            return _parquet_without(self.content, gone, ids)
        blank = b"\n" if self.made else b""
        text = b"".join(blank if number in gone else line for number, line in enumerate(self.lines, 1))
        pack = next((pack for end, pack in PACKERS.items() if self.path.name.lower().endswith(end)), bytes)
        return pack(text)


def name_of(row: SourceRow) -> str:
    """A row's id, as records read it."""
    return identifier({"prompt": "", **row.values}, "id") or str(row.values["id"])


def _zstandard(content: bytes) -> bytes:
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": _zstandard,
}
"""By how a file is compressed, how its bytes are written: the same each time, so that DVC sees one content."""


def _parquet_without(content: bytes, gone: Collection[int], ids: Sequence[str] | None) -> bytes:
    """A Parquet file without some rows, its columns, their types and its notes as they are; with these ids, if any."""
    import pyarrow
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(content))
    table = table.filter(pyarrow.array([number not in gone for number in range(1, table.num_rows + 1)]))
    if ids is not None:
        names = pyarrow.array(ids, pyarrow.string())
        there = table.schema.get_field_index("id")
        table = table.append_column("id", names) if there < 0 else table.set_column(there, "id", names)
    before = parquet.read_metadata(io.BytesIO(content))
    codec = before.row_group(0).column(0).compression if before.num_row_groups else "SNAPPY"
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="NONE" if codec == "UNCOMPRESSED" else codec)
    return sink.getvalue()


def read(paths: Paths) -> tuple[list[SourceFile], list[str]]:
    """All files that people gave, and the names of those in other formats, which nothing reads.

    Raises:
        FileNotFoundError: a link leads nowhere.
        ValueError: a link leads back to a folder that it is in, or a row cannot be read, so that nobody can say whose
            it is; all such rows are named.
    """
    problems, files, others = Problems(), list[SourceFile](), list[str]()
    for path in _given(paths):
        shown = path.relative_to(paths.root).as_posix()
        if suffix_of(path):
            files.append(_read(path, shown, problems))
        elif path.name != NOTE and path.suffix != ".dvc" and not path.name.startswith("."):
            others.append(shown)
    problems.stop()
    return sorted(files, key=lambda file: file.shown), sorted(others)


def _read(path: Path, shown: str, problems: Problems) -> SourceFile:
    parsed = list(numbered_rows(path, shown, problems))
    lines: list[bytes] = []
    if suffix_of(path) != PARQUET and not problems.messages:
        with open_unpacked(path) as stream:
            lines = stream.readlines()
    ends = [first - 1 for first, _ in parsed[1:]] + [max(len(lines), len(parsed))] * bool(parsed)
    rows = [
        SourceRow(first, last, {"id": f"{stem_of(path)}-{first}", **values})
        for (first, values), last in zip(parsed, ends, strict=True)
    ]
    made = frozenset(first for first, values in parsed if "id" not in values)
    return SourceFile(path, shown, rows, made, path.read_bytes(), lines)


def check(paths: Paths, files: Sequence[SourceFile]) -> None:
    """Raises ValueError that names every file which cannot be rewritten in place, and what to do."""
    problems = []
    for file in files:
        base = paths.source if file.path.is_relative_to(paths.source) else paths.feedback
        target = file.path.resolve()
        if file.path.is_symlink() or not target.is_relative_to(base.resolve()):
            problems.append(f"{file.shown}: a link to {target}; put the file itself there, or remove the rows there")
        elif not os.access(file.path.parent, os.W_OK):
            problems.append(f"{file.shown}: its folder cannot be written to; let this user write there: chmod u+w")
    if problems:
        raise ValueError("\n".join(["rows stand in files that cannot be rewritten; nothing was changed", *problems]))


def recover(paths: Paths) -> list[str]:
    """Sets back files that a process which was killed left half rewritten; returns their names."""
    restored = []
    for path in _given(paths):
        if path.name.endswith(NEW):
            path.unlink()
        elif path.name.endswith(OLD):
            _set_back(original := path.with_name(path.name.removesuffix(OLD)))
            restored.append(original.relative_to(paths.root).as_posix())
    return restored


def _given(paths: Paths) -> list[Path]:
    """All files below data/source and data/feedback; raises as `files_below`."""
    return [path for folder in (paths.source, paths.feedback) if folder.is_dir() for path in files_below(folder)]


@contextmanager
def rewritten(files: Sequence[tuple[SourceFile, Sequence[SourceRow]]]) -> Iterator[None]:
    """Takes rows out of files on entering, a file without another row too; an error within sets all back as they were.

    Raises:
        ValueError: a file is not as it was when it was read.
    """
    for file, _ in files:
        if not file.path.is_file() or file.path.read_bytes() != file.content:
            raise ValueError(f"{file.shown}: it was changed meanwhile; nothing was removed; give the command again")
    contents = {file.path: file.without(rows) for file, rows in files}
    made = [path for path, content in contents.items() if content is not None]
    try:
        for path in made:
            _write(path.with_name(path.name + NEW), contents[path] or b"", like=path)
        kept: list[Path] = []
        try:
            for path in contents:
                _keep(path)
                kept.append(path)
                if path in made:
                    os.replace(path.with_name(path.name + NEW), path)
                else:
                    path.unlink()
            yield
        except BaseException:
            for path in kept:
                _set_back(path)
            raise
        for path in kept:
            path.with_name(path.name + OLD).unlink()
    finally:
        for path in made:
            path.with_name(path.name + NEW).unlink(missing_ok=True)


def _keep(path: Path) -> None:
    """Gives a file a second name, so that it is there under its own at every moment; a copy where links are none."""
    old = path.with_name(path.name + OLD)
    try:
        os.link(path, old)
    except OSError:
        half = path.with_name(path.name + OLD + NEW)
        shutil.copy2(path, half)
        os.replace(half, old)


def _set_back(path: Path) -> None:
    """Gives a file that was kept its own name again."""
    old = path.with_name(path.name + OLD)
    os.replace(old, path)
    old.unlink(missing_ok=True)  # two names of one file: replacing changes nothing


def _write(path: Path, content: bytes, like: Path) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    shutil.copymode(like, path)
