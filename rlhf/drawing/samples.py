"""What sampling gives."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Samples(NamedTuple):
    """What was drawn for a batch of prompts.

    Attributes:
        tokens: new tokens, the end token included, 0 after the end.
        lengths: how many of them count.
        finished: True where an end token was written, False where the row was cut at its `max_new_tokens`.
        logprobs: log π of each token at the row's temperature (1 when greedy), before any filter; 0 after the end.
        values: what a critic read off the state that each token was drawn from, 0 after the end; None where no critic
            was given, or the decoder does not have the states.
    """

    tokens: Int[Tensor, "B T"]
    lengths: Int[Tensor, " B"]
    finished: Bool[Tensor, " B"]
    logprobs: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"] | None = None

    def responses(self) -> list[list[int]]:
        """The tokens that count, row by row."""
        return [row[:length].tolist() for row, length in zip(self.tokens, self.lengths, strict=True)]
