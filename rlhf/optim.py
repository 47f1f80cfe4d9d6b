"""The optimizer that SFT and reward modelling share, and the order of the training data."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from rlhf.finite import check_figures
from rlhf.settings.optim import OptimSettings


class Optimizer:
    """AdamW with gradient clipping, linear warm-up and cosine decay to a tenth of the rate."""

    def __init__(self, model: nn.Module, settings: OptimSettings) -> None:
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in self._parameters if parameter.ndim >= 2]
        vectors = [parameter for parameter in self._parameters if parameter.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},  # norms and biases have no scale to decay
        ]
        self.adam = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.98), fused=True)
        self._settings, self._steps = settings, 0
        self.learning_rate = 0.0
        """The rate of the last step."""

    def step(self, loss: float) -> dict[str, float]:
        """Clips, updates, clears the gradients; returns the step's figures, the norm as it was before clipping.

        Args:
            loss: whose gradient it is.

        Raises:
            NotFiniteError: the loss or the gradient is not finite; no weight has moved then, and the schedule goes on.
        """
        norm = float(nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm))
        settings, self._steps = self._settings, self._steps + 1
        warmup = max(1, round(settings.warmup_share * settings.steps))
        self.learning_rate = settings.learning_rate * cosine_with_warmup(self._steps, warmup, settings.steps)
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate
        try:
            check_figures({"loss": loss, "gradient's norm": norm})
            self.adam.step()
        finally:
            self.clear()
        return {"loss": loss, "grad_norm": norm, "learning_rate": self.learning_rate}

    def clear(self) -> None:
        """Takes back the gradients."""
        self.adam.zero_grad(set_to_none=True)


def cosine_with_warmup(step: int, warmup: int, steps: int, floor: float = 0.1) -> float:
    """The share of the peak rate at `step` (from 1): linear to `warmup`, then half a cosine down to `floor`."""
    if step <= warmup:
        return step / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def shuffled_batches(rows: int, size: int, steps: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Yields `steps` batches of row numbers; every row comes once before any comes again."""
    queue: list[int] = []
    for _ in range(steps):
        while len(queue) < min(size, rows):
            queue += torch.randperm(rows, generator=generator).tolist()
        batch, queue = queue[:size], queue[size:]
        yield batch
