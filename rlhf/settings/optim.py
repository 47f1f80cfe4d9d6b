"""Settings of the optimizer of SFT and reward models."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rlhf.settings.base import NonNegative, Positive, Rate, Settings, Share


class OptimSettings(Settings):
    """AdamW with linear warm-up and cosine decay."""

    steps: Positive
    batch_size: Positive
    learning_rate: Rate
    warmup_share: Share = 0.05
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    max_grad_norm: Rate = 1.0
    max_bad_batches: NonNegative = 3
    """Batches that may be skipped since a loss, a score or a gradient was not finite; one more stops the stage."""
