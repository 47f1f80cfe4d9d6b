"""Micro-batches that shrink: where memory runs out, a step is done once more with half of its rows at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass
class MicroBatches:
    """How many rows go through the networks at once.

    Attributes:
        stage: whose `micro_batch_size` it is.
        size: what params say, or less once that was too much; None is all rows of a step.
        tell: hears that it was halved.
    """

    stage: str
    size: int | None
    tell: Callable[[str], None] | None = None

    def attempt(self, rows: int, work: Callable[[int], T], undo: Callable[[], None] = lambda: None) -> T:
        """Does a step's work; where memory runs out, all of it again with half as many rows at once, from now on.

        Args:
            rows: of the step, over all of which its loss is a mean: so its gradient is the same however they are cut.
            work: is given how many rows to take at once.
            undo: takes back what a piece of the work left behind, the gradients above all.

        Raises:
            ValueError: memory runs out with a single row.
        """
        while True:
            size = min(self.size or rows, rows)
            try:
                return work(size)
            except torch.OutOfMemoryError as error:
                message = str(error).partition("\n")[0]
                if size == 1:
                    raise ValueError(
                        f"memory ran out with {self.stage}.micro_batch_size 1 ({message}); take a smaller model or an "
                        "adapter, shorten the texts, or set model.gradient_checkpointing"
                    ) from error
            undo()  # past the handler, which holds the frames of the work and with them its activations
            torch.cuda.empty_cache()
            self.size = (size + 1) // 2
            if self.tell is not None:
                self.tell(
                    f"memory ran out with {size} rows at once ({message}); the step is done again with {self.size}, to "
                    f"the same gradient; set {self.stage}.micro_batch_size to {self.size} to save the attempt"
                )
