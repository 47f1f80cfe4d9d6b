"""The critic: a scalar head at every token, on a network of its own or on the policy's trunk."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlhf.batches import Batch, response_states


class Critic(nn.Module):
    """V_t, the value before response token t is written, from the hidden state of the token before it.

    Args:
        backbone: copied, and trained with the head; None puts the head on the policy's own states.
        hidden: width of the states.
    """

    def __init__(self, backbone: nn.Module | None, hidden: int) -> None:
        super().__init__()
        # Its start may be frozen, or in half precision.
        self.backbone = None if backbone is None else copy.deepcopy(backbone).float().requires_grad_(True)
        self.head = nn.Linear(hidden, 1)
        nn.init.zeros_(self.head.weight)  # a critic that knows nothing says 0, the mean of normalised scores
        nn.init.zeros_(self.head.bias)
        if backbone is not None:
            self.to(next(backbone.parameters()).device)
        self.eval()

    def forward(self, batch: Batch, states: Float[Tensor, "B T H"] | None = None) -> Float[Tensor, "B T"]:
        """One value per response token; 0 where padded.

        Args:
            batch: prompts and responses.
            states: the policy's, which a critic without a backbone reads.
        """
        if self.backbone is not None:
            states = response_states(self.backbone, batch)
        assert states is not None
        return torch.where(batch.response_mask, self.read(states), 0.0)

    def read(self, states: Float[Tensor, "*shape H"]) -> Float[Tensor, "*shape"]:
        """The values of hidden states."""
        return self.head(states.float()).squeeze(-1).float()
