"""General demonstrations: those of other tasks, which a policy must not forget while it learns its own."""

from __future__ import annotations

from pathlib import Path

from rlhf.records import Demonstration
from tasks.files import read_records


def read_general(split: Path, needed_by: str | None = None) -> list[Demonstration]:
    """The general demonstrations of a split; none where `ingest.general` names no source of them.

    Args:
        split: the folder of train, dev or test.
        needed_by: the param that cannot do without them, if there is one.

    Raises:
        ValueError: there is none, and a param needs them.
    """
    file = split / "general.jsonl"
    if file.is_file():
        return read_records(file, Demonstration)
    if needed_by is not None:
        raise ValueError(
            f"{needed_by} is above 0, but there are no general demonstrations ({file} is missing); name a source of "
            f"them in ingest.general, or set {needed_by} to 0"
        )
    return []
