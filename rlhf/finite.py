"""What is not finite is never stepped on, saved or kept: bad batches are skipped, counted and told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Keep = Callable[[Mapping[str, Any]], str]
"""Puts a bad batch aside, and says where it lies."""


class NotFiniteError(ValueError):
    """A batch that nothing can be learnt from.

    Attributes:
        batch: what is known of it, for a post-mortem: texts and numbers.
    """

    def __init__(self, reason: str, batch: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.batch = batch or {}


@dataclass
class BadBatches:
    """The batches that a stage skipped.

    Attributes:
        stage: whose params are named.
        limit: how many it bears (`max_bad_batches`).
        keep: is handed each of them; None keeps none.
        count: how many there were.
    """

    stage: str
    limit: int
    keep: Keep | None = None
    count: int = 0

    def skip(self, error: NotFiniteError, **batch: Any) -> None:
        """Counts a bad batch and puts it aside.

        Args:
            error: what was found.
            batch: more of it, to be kept: at which step, which texts.

        Raises:
            ValueError: it is one more than the stage bears.
        """
        self.count += 1
        path = self.keep({"found": str(error), **batch, **error.batch}) if self.keep is not None else None
        if self.count > self.limit:
            kept = f" (they are kept in {path})" if path else ""
            raise ValueError(
                f"{error}; batches of {self.stage} that nothing could be learnt from: {self.count}{kept}, and "
                f"{self.stage}.max_bad_batches allows {self.limit}; lower {self.stage}.learning_rate, or look for "
                "damaged data or a damaged model"
            )


def check_figures(figures: Mapping[str, float]) -> None:
    """Raises NotFiniteError that names the first figure which is not finite."""
    for name, value in figures.items():
        if not math.isfinite(value):
            raise NotFiniteError(f"the {name} is {value}")


def check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Raises NotFiniteError that names the first tensor with an entry which is not finite, and counts those."""
    for name, tensor in tensors.items():
        bad = tensor[~tensor.isfinite()]
        if len(bad):
            raise NotFiniteError(f"of {tensor.numel()} {name} {len(bad)} are not finite ({float(bad[0])})")


def check_state(state: Any, what: str) -> None:
    """Raises ValueError where a number or a tensor, at whatever depth, is not finite: it is not saved.

    Args:
        state: tensors and numbers, or lists and dictionaries of them.
        what: it is; the error opens with that, and where in it the number stands.
    """
    if isinstance(state, Tensor | float):
        if not bool(torch.as_tensor(state).isfinite().all()):
            raise ValueError(
                f"{what} is not finite and is not saved; lower the learning rate, or look for damaged data"
            )
        return
    parts = state.items() if isinstance(state, Mapping) else enumerate(state) if isinstance(state, list) else ()
    for name, part in parts:
        check_state(part, f"{what}: {name}")
