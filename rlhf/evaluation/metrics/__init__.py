"""Metric modules for the `evaluate` library, and the one way the project runs them.

The classes are imported like any other code, so no hub, no copied script and no cache is involved;
`evaluate.load(<path of one of these files>)` loads the same module for whoever prefers that.
"""

from __future__ import annotations

from collections.abc import Sequence
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rlhf.blank import is_blank

if TYPE_CHECKING:
    import evaluate


def compute(
    metric: type[evaluate.Metric],
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    **options: Any,
) -> dict[str, Any]:
    """Runs one metric module over N predictions, in memory, leaving nothing in the user's caches.

    Args:
        metric: a class of this package.
        predictions: N texts.
        references: N lists of one or more texts, of any lengths.
        options: handed to the module.

    Raises:
        ValueError: there is nothing to score, the lengths differ, or a row has no reference.
    """
    check(predictions, references)
    with TemporaryDirectory(prefix="metric-") as folder:
        module = metric(keep_in_memory=True, cache_dir=folder)
        result: dict[str, Any] | None = module.compute(
            predictions=list(predictions), references=[list(row) for row in references], **options
        )
    assert result is not None, "a metric run in one process returns its result"
    return result


def check(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raises ValueError naming the row unless there are N predictions, each with references that are not all blank."""
    if not predictions:
        raise ValueError("found no predictions; give at least one to score")
    if len(predictions) != len(references):
        raise ValueError(
            f"found {len(predictions)} predictions and {len(references)} lists of references; "
            "give one list of references per prediction"
        )
    for index, row in enumerate(references):
        if isinstance(row, str):
            raise ValueError(f"references[{index}] is a text; give a list of one or more texts")
        if not row:
            raise ValueError(f"references[{index}] is empty; give each prediction at least one reference")
        if all(map(is_blank, row)):
            raise ValueError(
                f"references[{index}] holds no text: whatever was written would score 0; leave the row out"
            )
