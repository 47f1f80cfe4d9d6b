"""Batches that training skipped since something in them was not finite: a file of them, for a post-mortem."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.files import append_row
from tasks.progress import say

if TYPE_CHECKING:
    from rlhf.finite import Keep


def keep_in(file: Path, stage: str) -> Keep:
    """Tells of each bad batch, and adds it to a JSONL file, where numbers that JSON has no word for are texts."""

    def keep(batch: Mapping[str, Any]) -> str:
        append_row(file, {name: _spelt(value) for name, value in batch.items()})
        say(f"{stage}: a batch is skipped: {batch['found']}; it is kept in {file}")
        return str(file)

    return keep


def _spelt(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _spelt(each) for name, each in value.items()}
    return [_spelt(each) for each in value] if isinstance(value, list) else value
