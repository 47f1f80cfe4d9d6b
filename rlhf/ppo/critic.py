"""The critic: a network of its own with a scalar head at every token."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlhf.batches import Batch


class Critic(nn.Module):
    """V_t, the value before response token t is written, from the hidden state of the token before it."""

    def __init__(self, backbone: nn.Module, hidden: int) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone).float().requires_grad_(True)  # its start may be frozen
        self.head = nn.Linear(hidden, 1)
        nn.init.zeros_(self.head.weight)  # a critic that knows nothing says 0, the mean of normalised scores
        nn.init.zeros_(self.head.bias)
        self.to(next(backbone.parameters()).device)
        self.eval()

    def forward(self, batch: Batch) -> Float[Tensor, "B T"]:
        """One value per response token; 0 where padded."""
        width = batch.response_ids.shape[1]
        hidden = self.backbone(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask.long(),
            position_ids=batch.position_ids,
            use_cache=False,
        ).last_hidden_state[:, -width - 1 : -1]
        return torch.where(batch.response_mask, self.head(hidden).squeeze(-1).float(), 0.0)
