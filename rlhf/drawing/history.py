"""The tokens that a response goes on from."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Bool, Int
from torch import Tensor


class History(NamedTuple):
    """What the repetition penalty counts in.

    Attributes:
        tokens: those that the response goes on from.
        mask: True at those that are no filler.
    """

    tokens: Int[Tensor, "B P"]
    mask: Bool[Tensor, "B P"]
