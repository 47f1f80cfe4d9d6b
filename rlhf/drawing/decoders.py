"""What a decoder is to a sampler, whoever computes its logits.

Dimensions: B rows at the start, N rows that are still written, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from rlhf.drawing.choosing import Chooser
from rlhf.drawing.transcript import Transcript


@runtime_checkable
class Decoder(Protocol):
    """Whatever gives the logits of rows that are written side by side, at its beginning.

    Attributes:
        patience: the share of rows that may be done before it pays to drop them.
        states: the last hidden ones, of the last logits, N × H; None where they are not known.
    """

    @property
    def patience(self) -> float: ...

    @property
    def states(self) -> Tensor | None: ...

    def first(self) -> Float[Tensor, "B V"]:
        """The logits of every row's first token, in float32."""
        ...

    def next(self, tokens: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
        """The logits after one more token a row, in float32; the next call may overwrite them."""
        ...

    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Goes on with these of the rows, in this order."""
        ...


@runtime_checkable
class Writer(Decoder, Protocol):
    """A decoder that also draws by itself, several tokens at a time, where no row asks for filters."""

    def write(self, chooser: Chooser, transcript: Transcript, steps: int) -> None:
        """Draws until every row is done."""
        ...
