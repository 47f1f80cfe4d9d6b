"""What every metric module of the project takes, and how sacrebleu takes it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import datasets


def texts_with_references() -> datasets.Features:
    """N texts, each with a list of one or more references."""
    return datasets.Features(
        {"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}
    )


def reference_streams(references: Sequence[Sequence[str]]) -> list[list[Any]]:
    """N lists of references as sacrebleu takes them: the first of each row, the second …, None where a row has none."""
    return [list(stream) for stream in zip_longest(*references)]


def reference_count(references: Sequence[Sequence[str]]) -> int:
    """How many references each of N rows has; where rows differ -1, which is sacrebleu's own code for that."""
    counts = {len(row) for row in references}
    return counts.pop() if len(counts) == 1 else -1
