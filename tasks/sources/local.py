"""Files and folders below data/source: demonstrations, prompts, and the splits they declare."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.sources.files import SUFFIXES, read_file, suffix_of
from tasks.sources.rows import Problems, RawRow

SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
"""Names of files and of Hub splits, and the split that their rows get."""


@dataclass
class SourceRows:
    """What a source holds, in its own order."""

    demonstrations: list[RawRow] = field(default_factory=list)
    prompts: list[RawRow] = field(default_factory=list)


def read_local(root: Path, source: str, problems: Problems) -> SourceRows:
    """Rows of a file or folder below data/source.

    Args:
        root: the workspace.
        source: the path from the root, such as `data/source/demos.jsonl`.
        problems: collects malformed rows.

    Raises:
        FileNotFoundError: there is no such file or folder, or the folder holds none of the expected files.
        ValueError: the path lies outside data/source, or a data file's name or suffix is not known.
    """
    # Links below data/source are welcome, so they are not resolved.
    path, base = (Path(os.path.abspath(root / part)) for part in (source, "data/source"))
    if not path.is_relative_to(base):
        raise ValueError(
            f"{source}: outside data/source; copy or link it to data/source/{path.name} and name that, so that a "
            "change of the data is seen"
        )
    if not path.exists():
        raise FileNotFoundError(
            f"{source}: no such file or folder; a source is builtin, a path below data/source or hub:ORG/NAME"
        )
    files = _files_of(path, source) if path.is_dir() else [path]
    rows = SourceRows()
    for file in files:
        shown = f"{source.rstrip('/')}/{file.name}" if path.is_dir() else source
        split = SPLITS.get(file.name.removesuffix(suffix_of(file) or ""))
        for row in read_file(file, shown, problems):
            sort_row(row, split, rows, problems)
    return rows


def sort_row(row: RawRow, split: str | None, rows: SourceRows, problems: Problems) -> None:
    """Adds a row to the demonstrations or prompts; its id and split are made where it has none."""
    values: dict[str, Any] = {"id": f"{row.name}-{row.line}", **row.values}
    if split is not None:
        values.setdefault("split", split)
    if values.get("split", "train") not in ("train", "dev", "test"):
        problems.add(f"{row.location}: split is {values['split']!r}; expected train, dev or test")
    elif "prompt" not in values:
        problems.add(
            f"{row.location}: fields are {', '.join(row.values) or 'none'}; expected prompt and response, or "
            "prompt and references"
        )
    else:
        kind = rows.demonstrations if "response" in values else rows.prompts
        kind.append(RawRow(row.location, row.name, row.line, values))


def _files_of(folder: Path, source: str) -> list[Path]:
    files = sorted(
        (file for file in folder.iterdir() if file.is_file() and suffix_of(file)), key=lambda file: file.name
    )
    expected = f"train, dev, test, demonstrations* or prompts* ({', '.join(SUFFIXES)})"
    for file in files:
        stem = file.name.removesuffix(suffix_of(file) or "")
        if stem not in SPLITS and not stem.startswith(("demonstrations", "prompts")):
            raise ValueError(
                f"{source}/{file.name}: found a data file of another name; expected {expected}; rename it, "
                "or move it to a subfolder (those are not read)"
            )
    if not files:
        raise FileNotFoundError(f"{source}: the folder holds no data; expected files called {expected}")
    return files
