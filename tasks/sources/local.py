"""Files and folders below data/source: demonstrations, prompts, and the splits they declare."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.progress import warn
from tasks.sources.files import READABLE, check_link, read_file, stem_of, suffix_of
from tasks.sources.rows import Problems, RawRow
from tasks.sources.shapes import without_shapes

SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
"""Names of files and of Hub splits, and the split that their rows get."""
RESPONSES = ("answer", "completion", "output", "reply", "target")
"""What others call a response: a row with one of these fields and without ours is not taken for a bare prompt."""
NOTES = (".md", ".txt", ".dvc")
"""Suffixes of files that stand beside data and hold none."""
DATA = (
    *(".json", ".arrow", ".avro", ".feather", ".orc", ".pickle", ".pkl", ".npy", ".npz", ".h5", ".sqlite", ".db"),
    *(".xls", ".xlsx", ".ods", ".xml", ".yaml", ".yml", ".html", ".tab", ".dat", ".log"),
    *(".gz", ".bz2", ".xz", ".zst", ".lz4", ".br", ".zip", ".tar", ".tgz", ".7z", ".rar"),
)
"""Suffixes of files that may hold data, and that nothing here reads."""


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
        FileNotFoundError: there is no such file or folder, a link leads nowhere, or the folder holds none of the
            expected files.
        ValueError: the path lies outside data/source, or a data file's name or suffix is not known.
    """
    # Links below data/source are welcome, so they are not resolved.
    path, base = (Path(os.path.abspath(root / part)) for part in (source, "data/source"))
    if not path.is_relative_to(base):
        raise ValueError(
            f"{source}: outside data/source; copy or link it to data/source/{path.name} and name that, so that a "
            "change of the data is seen"
        )
    if not check_link(path).exists():
        raise FileNotFoundError(
            f"{source}: no such file or folder; a source is builtin, a path below data/source or hub:ORG/NAME"
        )
    files = _files_of(path, source) if path.is_dir() else [path]
    rows = SourceRows()
    for file in files:
        shown = f"{source.rstrip('/')}/{file.name}" if path.is_dir() else source
        split = SPLITS.get(stem_of(file))
        before = len(rows.demonstrations), len(rows.prompts)
        for row in list(without_shapes(read_file(file, shown, problems), shown, "demonstrations", problems)):
            sort_row(row, split, rows, problems)
        _tell_bare_prompts(shown, rows.demonstrations[before[0] :], rows.prompts[before[1] :])
    return rows


def _tell_bare_prompts(shown: str, demonstrations: list[RawRow], prompts: list[RawRow]) -> None:
    bare = [row for row in prompts if "references" not in row.values]
    if demonstrations and bare:
        warn(
            f"{shown}: {len(bare)} of {len(demonstrations) + len(prompts)} rows have neither response nor references, "
            f"such as {bare[0].location}; they are prompts, and while a split has prompts of its own, those of its "
            "demonstrations are not asked; if a response is missing, write it"
        )


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
    elif problem := _misnamed(values) or _malformed_references(values):
        problems.add(f"{row.location}: {problem}")
    else:
        kind = rows.demonstrations if "response" in values else rows.prompts
        kind.append(RawRow(row.location, row.name, row.line, values))


def _misnamed(values: dict[str, Any]) -> str:
    """Which field would be lost under its name, and how it is called here; empty where there is none."""
    if "reference" in values and "references" not in values:
        return "reference is not read; call it references and give a list of texts (in a table: reference_1)"
    if "response" in values or "references" in values:
        return ""
    for name in values:
        close = difflib.get_close_matches(name.strip().lower(), ("response", "references"), cutoff=0.85)
        known = "response" if name.strip().lower() in RESPONSES else next(iter(close), "")
        if known:
            return f"found {name!r}, and neither response nor references; call it {known}"
    return ""


def _malformed_references(values: dict[str, Any]) -> str:
    """What is wrong with the references of a demonstration, whose record does not know them; empty where nothing is."""
    references = values.get("references")
    if "response" not in values or references is None:
        return ""
    if isinstance(references, list) and all(isinstance(text, str) for text in references):
        return ""
    return f"references is {references!r:.60}; give a list of texts"


def _files_of(folder: Path, source: str) -> list[Path]:
    expected = f"train, dev, test, demonstrations* or prompts* ({READABLE})"
    files, passed_over = [], []
    for file in sorted(folder.iterdir()):
        if check_link(file).is_dir() and suffix_of(file) is not None:
            raise ValueError(
                f"{source}/{file.name}: found a folder that is called as a data file; subfolders are not read: put its "
                f"files here, as {expected}, or give it another name"
            )
        if file.is_dir() or file.name.startswith(".") or file.name.lower().endswith(NOTES):
            continue
        if suffix_of(file) is None and not file.name.lower().endswith(DATA):
            passed_over.append(file.name)
            continue
        if suffix_of(file) is None:
            raise ValueError(
                f"{source}/{file.name}: found a {file.suffix} file; expected files called {expected}; write it as one "
                "of these, or move it to a subfolder (those are not read)"
            )
        stem = stem_of(file)
        if stem not in SPLITS and not stem.startswith(("demonstrations", "prompts")):
            raise ValueError(
                f"{source}/{file.name}: found a data file of another name; expected {expected}; rename it, "
                "or move it to a subfolder (those are not read)"
            )
        files.append(file)
    if not files:
        raise FileNotFoundError(f"{source}: the folder holds no data; expected files called {expected}")
    if passed_over:
        warn(f"{source}: {len(passed_over)} files are no data and not read: {', '.join(passed_over)}")
    return files
