"""From logits to tokens: each row's controls, its own uniform numbers, and what it may not repeat.

Dimensions: B rows at the start, N rows in the batch, T new tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf.drawing.controls import as_controls, warp
from rlhf.drawing.history import History
from rlhf.drawing.inversion import cumulate, invert, log_chances
from rlhf.records import Sampling


class Choice(NamedTuple):
    """A token a row.

    Attributes:
        tokens: what was drawn.
        logprobs: log π of it at the row's temperature, before any filter.
    """

    tokens: Int[Tensor, " N"]
    logprobs: Float[Tensor, " N"]


class Chooser:
    """Draws a token for each row, as its settings and its seed have it.

    Args:
        sampling: the settings, one a row.
        seeds: of the rows' uniform numbers.
        history: what the responses go on from; None where no row asks for more than a temperature.
        stop_ids: what may not come before `min_new_tokens`.
        device: of the logits.
    """

    def __init__(
        self,
        sampling: Sequence[Sampling],
        seeds: Sequence[int],
        history: History | None,
        stop_ids: Sequence[int],
        device: torch.device,
    ) -> None:
        steps = max(settings.max_new_tokens for settings in sampling)
        self.controls, self.stop_ids = as_controls(sampling, device), stop_ids
        self.filters = history is not None
        greedy = [settings.temperature == 0.0 for settings in sampling]
        self.all_greedy, self.any_greedy = all(greedy), any(greedy)
        self.warm = any(settings.temperature not in (0.0, 1.0) for settings in sampling)
        self.scale = torch.where(self.controls.greedy, 1.0, self.controls.temperature)
        self.uniform = _uniform(seeds, steps).to(device).double()
        if history is not None:
            self.begun = history.tokens.shape[1]
            room = torch.zeros(len(seeds), steps, dtype=torch.long, device=device)
            self.history = torch.cat([history.tokens, room], dim=1)
            self.history_mask = torch.cat([history.mask, torch.ones_like(room, dtype=torch.bool)], dim=1)

    @torch.inference_mode()
    def choose(self, logits: Float[Tensor, "N V"], step: int | Int[Tensor, "1"]) -> Choice:
        """A token a row from its logits, the step-th of its response; without filters a tensor may say which."""
        scaled = logits / self.scale if self.warm else logits
        warped = scaled
        if self.filters:
            assert isinstance(step, int)
            warped = self._warp(logits, step)
        cumulative = cumulate(warped)
        tokens = warped.argmax(-1) if self.all_greedy else invert(cumulative, self.uniform[step].view(-1))
        if self.any_greedy and not self.all_greedy:
            tokens = torch.where(self.controls.greedy[:, 0], warped.argmax(-1), tokens)
        if not self.filters:
            return Choice(tokens, log_chances(cumulative, tokens))
        self.history[:, self.begun + step] = tokens
        # What the filters left may be too unlikely for its chance to be a number above 0.
        return Choice(tokens, scaled.gather(1, tokens[:, None])[:, 0] - scaled.logsumexp(-1))

    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Goes on with these of the rows, in this order."""
        self.controls, self.scale, self.uniform = self.controls.rows(rows), self.scale[rows], self.uniform[:, rows]
        if self.filters:
            self.history, self.history_mask = self.history[rows], self.history_mask[rows]

    def _warp(self, logits: Float[Tensor, "N V"], step: int) -> Float[Tensor, "N V"]:
        past = self.begun + step
        history, mask = self.history[:, :past], self.history_mask[:, :past]
        return warp(logits, self.controls, history, mask, step, self.stop_ids)


def _uniform(seeds: Sequence[int], steps: int) -> Float[Tensor, "T B"]:
    """A row's numbers are the first of its own seed's, however many others draw beside it."""
    return torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds], dim=1)
