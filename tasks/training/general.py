"""General demonstrations: those of other tasks, which a policy must not forget while it learns its own."""

from __future__ import annotations

from rlhf.records import Demonstration
from tasks.files import read_records
from tasks.paths import Paths


def read_general(paths: Paths, split: str, needed_by: str | None = None) -> list[Demonstration]:
    """The general demonstrations of a split; none where `ingest.general` names no source of them.

    Args:
        paths: the workspace.
        split: train, dev or test.
        needed_by: the param that cannot do without them, if there is one.

    Raises:
        ValueError: there is none, and a param needs them.
    """
    file = paths.validated / split / "general.jsonl"
    if file.is_file():
        return read_records(file, Demonstration)
    if needed_by is not None:
        raise ValueError(
            f"{needed_by} is above 0, but there are no general demonstrations ({file} is missing); name a source of "
            f"them in ingest.general, or set {needed_by} to 0"
        )
    return []
