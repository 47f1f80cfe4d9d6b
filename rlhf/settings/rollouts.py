"""Settings of the rollouts."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rlhf.records import Sampling
from rlhf.settings.base import NonNegative, Positive, Settings


class RolloutSettings(Settings):
    """K completions for each prompt."""

    completions: Annotated[int, Field(ge=2)] = 4
    max_prompts: Positive | None = None
    sampling: Annotated[list[Sampling], Field(min_length=1)] = [Sampling()]
    """Cycled through the K completions of a prompt."""
    batch_size: Positive = 64
    seed: NonNegative = 0
