"""The linear head that turns a hidden state into a score."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def score_states(head: nn.Linear, states: Float[Tensor, "B H"]) -> Float[Tensor, " B"]:
    """w·h + b in float32 under autocast too: bfloat16 would round scores to two digits, and pairs to ties."""
    with torch.autocast(states.device.type, enabled=False):
        scores: Tensor = head(states.float())
        return scores.squeeze(-1)
