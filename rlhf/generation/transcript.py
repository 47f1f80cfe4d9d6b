"""What has been written, and by which rows.

Dimensions: B rows at the start, N rows that are still in the batch, T new tokens.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf.generation.samples import Samples


class Transcript:
    """The tokens of all rows, in their order at the start, whichever of them are in the batch.

    Args:
        limits: how many tokens each row may write.
        eos_id: what ends a row before.
    """

    def __init__(self, limits: Int[Tensor, " B"], eos_id: int) -> None:
        self.limits, self.eos_id, self.step = limits, eos_id, 0
        self.ends = set(limits.tolist())
        shape = (len(limits), max(self.ends))
        self.tokens = torch.zeros(shape, dtype=torch.long, device=limits.device)
        self.logprobs = torch.zeros(shape, device=limits.device)
        self.lengths = torch.zeros_like(limits)
        self.finished = torch.zeros_like(limits, dtype=torch.bool)
        self.rows = torch.arange(len(limits), device=limits.device)
        self.alive = torch.ones_like(self.finished)
        self.left = len(limits)
        self.unfiled: list[tuple[Tensor, Tensor]] = []

    def add(self, tokens: Int[Tensor, " N"], logprobs: Float[Tensor, " N"]) -> None:
        """Notes a token for each row in the batch; one of a row that is done does not count."""
        self.step += 1
        self.unfiled.append((tokens, logprobs))
        ended = tokens == self.eos_id
        over = ended | (self.limits == self.step) if self.step in self.ends else ended
        if not over.any():
            return
        over = over & self.alive
        self.lengths[self.rows[over]] = self.step
        self.finished[self.rows[over]] = ended[over]
        self.alive = self.alive & ~over
        self.left = int(self.alive.sum())

    def drop(self, patience: float) -> Int[Tensor, " N"] | None:
        """The rows to go on with when more than this share of the batch is done: the last ones fill the gaps."""
        size = len(self.alive)
        if size - self.left <= patience * size:
            return None
        self._file()
        kept = torch.arange(self.left, device=self.rows.device)
        places = self.alive.nonzero()[:, 0]
        kept[~self.alive[: self.left]] = places[places >= self.left]
        self.rows, self.limits, self.alive = self.rows[kept], self.limits[kept], self.alive[kept]
        return kept

    def samples(self) -> Samples:
        """All that counts, cut to the longest row."""
        self._file()
        past = torch.arange(self.step, device=self.lengths.device) >= self.lengths[:, None]
        tokens = self.tokens[:, : self.step].masked_fill(past, 0)
        return Samples(tokens, self.lengths, self.finished, self.logprobs[:, : self.step].masked_fill(past, 0.0))

    def _file(self) -> None:
        columns = slice(self.step - len(self.unfiled), self.step)
        tokens, logprobs = zip(*self.unfiled, strict=True)
        self.tokens[self.rows, columns] = torch.stack(tokens, dim=1)
        self.logprobs[self.rows, columns] = torch.stack(logprobs, dim=1)
        self.unfiled = []
