"""What has been written, and by which rows.

Dimensions: B rows at the start, N rows that are still in the batch, K steps, T new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf.drawing.samples import Samples


class Transcript:
    """The tokens of all rows, in their order at the start, whichever of them are in the batch.

    Args:
        limits: how many tokens each row may write.
        stop_ids: the tokens that end a row before.
    """

    def __init__(self, limits: Int[Tensor, " B"], stop_ids: Sequence[int]) -> None:
        self.limits, self.step = limits, 0
        self.stop_ids = torch.tensor(stop_ids, device=limits.device)
        self.ends = set(limits.tolist())
        shape = (len(limits), max(self.ends))
        self.tokens = torch.zeros(shape, dtype=torch.long, device=limits.device)
        self.notes: list[Tensor] = []
        self.lengths = torch.zeros_like(limits)
        self.finished = torch.zeros_like(limits, dtype=torch.bool)
        self.rows = torch.arange(len(limits), device=limits.device)
        self.alive = torch.ones_like(self.finished)
        self.left = len(limits)
        self.unfiled: list[tuple[Tensor, ...]] = []

    def add(
        self, tokens: Int[Tensor, " N"], logprobs: Float[Tensor, " N"], values: Float[Tensor, " N"] | None = None
    ) -> None:
        """Notes a token for each row in the batch; one of a row that is done does not count."""
        self.step += 1
        self.unfiled.append((tokens, logprobs) if values is None else (tokens, logprobs, values))
        ended = torch.isin(tokens, self.stop_ids)
        over = ended | (self.limits == self.step) if self.step in self.ends else ended
        if not over.any():
            return
        over = over & self.alive
        self.lengths[self.rows[over]] = self.step
        self.finished[self.rows[over]] = ended[over]
        self.alive = self.alive & ~over
        self.left = int(self.alive.sum())

    def extend(self, tokens: Int[Tensor, "K N"], logprobs: Float[Tensor, "K N"]) -> None:
        """Notes several steps at once; what a row wrote after its end does not count."""
        steps = torch.arange(self.step + 1, self.step + 1 + len(tokens), device=tokens.device)
        ended = torch.isin(tokens, self.stop_ids)
        over = ended | (steps[:, None] == self.limits)
        first = over.long().argmax(0)
        done = over.any(0) & self.alive
        self.lengths[self.rows] = torch.where(done, steps[first], self.lengths[self.rows])
        self.finished[self.rows] |= done & ended.gather(0, first[None])[0]
        self.alive = self.alive & ~done
        self.step += len(tokens)
        self.unfiled += zip(tokens, logprobs, strict=True)
        self.left = int(self.alive.sum())

    def drop(self, patience: float) -> Int[Tensor, " N"] | None:
        """The rows to go on with when more than this share of the batch is done: the last ones fill the gaps."""
        size = len(self.alive)
        if size - self.left <= patience * size:
            return None
        self._file()
        kept = torch.arange(self.left, device=self.rows.device)
        indices = self.alive.nonzero()[:, 0]
        kept[~self.alive[: self.left]] = indices[indices >= self.left]
        self.rows, self.limits, self.alive = self.rows[kept], self.limits[kept], self.alive[kept]
        return kept

    def samples(self) -> Samples:
        """All that counts, cut to the longest row."""
        self._file()
        width = int(self.lengths.max())  # steps noted together may go past the longest row
        past = torch.arange(width, device=self.lengths.device) >= self.lengths[:, None]
        tokens, *notes = (written[:, :width].masked_fill(past, 0) for written in (self.tokens, *self.notes))
        return Samples(tokens, self.lengths, self.finished, *notes)

    def _file(self) -> None:
        columns = slice(self.step - len(self.unfiled), self.step)
        tokens, *notes = (torch.stack(steps, dim=1) for steps in zip(*self.unfiled, strict=True))
        self.notes = self.notes or [note.new_zeros(self.tokens.shape) for note in notes]
        for written, steps in zip((self.tokens, *self.notes), (tokens, *notes), strict=True):
            written[self.rows, columns] = steps
        self.unfiled = []
