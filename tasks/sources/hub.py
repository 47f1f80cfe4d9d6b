"""Data sets of the Hugging Face Hub, through `datasets`."""

from __future__ import annotations

import re
from typing import Any

from tasks.sources.local import SPLITS, SourceRows, sort_row
from tasks.sources.rows import Problems, RawRow, without_gaps
from tasks.sources.shapes import without_shapes


def read_hub(name: str, problems: Problems) -> SourceRows:
    """Rows of a Hub data set with the columns of ours (prompt, response / references).

    Args:
        name: `ORG/NAME`, or `ORG/NAME:split` for one split alone, which then declares no split of ours.
        problems: collects rows that do not fit.

    Raises:
        ValueError: the data set cannot be reached or read, or a split has none of the expected names.
    """
    dataset, _, only = name.partition(":")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset):
        raise ValueError(f"hub:{name}: expected hub:ORG/NAME or hub:ORG/NAME:split")
    result = SourceRows()
    for part, rows in load_splits(dataset, only or None).items():
        if not only and part not in SPLITS:
            raise ValueError(
                f"hub:{name}: found a split called {part}; expected {', '.join(SPLITS)}; "
                f"name the one to take, such as hub:{dataset}:{part}"
            )
        shown = f"hub:{dataset}:{part}"
        read = [RawRow(f"{shown}:{row}", part, row, without_gaps(values)) for row, values in enumerate(rows, 1)]
        for row in without_shapes(read, shown, "demonstrations", problems):
            sort_row(row, None if only else SPLITS[part], result, problems)
    if not result.demonstrations and not result.prompts:
        problems.add(f"hub:{name}: the data set is empty; give at least one row")
    return result


def load_splits(dataset: str, split: str | None) -> dict[str, Any]:
    """The splits of a data set by name, or the one split that is named.

    Raises:
        ValueError: it cannot be reached or read.
    """
    from datasets import load_dataset

    try:
        loaded = load_dataset(dataset, split=split)
    # `datasets` raises the errors of the network, the Hub and each file format; all get the same message.
    except Exception as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        raise ValueError(
            f"hub:{dataset}: the data set could not be loaded ({type(error).__name__}: {reason:.300}); check "
            "its name, the split and the network, unset HF_HUB_OFFLINE, or put the data below data/source"
        ) from None
    return {split: loaded} if split else dict(loaded)
