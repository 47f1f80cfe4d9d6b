"""Products with a layer's weights, laid out for the few rows that a decoding step has.

Dimensions: N rows, K inputs and M outputs of a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

COPIED_WEIGHTS = 2**22
"""Matrices of up to so many weights are copied to where products with few rows are fastest; larger ones stay."""

PACKED_WEIGHTS = 2**25
"""Matrices of up to so many weights may be packed, which takes a copy of them."""

PACKED_ROWS = 4
"""From so many rows on a product with packed weights is the faster one."""


class Part(NamedTuple):
    """A linear layer, its inputs along the rows."""

    weight: Float[Tensor, "K M"]
    bias: Float[Tensor, " M"] | None


class Projection:
    """A product with the weights of one linear layer, or of several side by side.

    For several rows weights too many to be copied as they are may be packed, as oneDNN has them.

    Args:
        parts: the layers.
        dtype: in which the product is computed.
        rows: how many the states have at most.
        pack: whether they may be.
    """

    def __init__(self, parts: Sequence[Part], dtype: torch.dtype, rows: int, pack: bool = False) -> None:
        weights = [part.weight.to(dtype) for part in parts]
        copied = sum(weight.numel() for weight in weights) <= COPIED_WEIGHTS
        if copied:
            weights = [torch.cat(weights, dim=1) if len(weights) > 1 else weights[0].contiguous()]
        biases = [part.bias.to(dtype) for part in parts if part.bias is not None]
        self.weights, self.bias, self.dtype = weights, torch.cat(biases) if biases else None, dtype
        worth = pack and not copied and len(weights) == 1 and rows >= PACKED_ROWS
        self.packed = _pack(weights[0]) if worth else None

    def __call__(self, states: Float[Tensor, "N K"]) -> Float[Tensor, "N M"]:
        if states.dtype != self.dtype:
            states = states.to(self.dtype)
        if self.packed is not None and len(states) >= PACKED_ROWS:
            packed: Tensor = torch.ops.mkldnn._linear_pointwise(states, self.packed, self.bias, "none", [], "")
            return packed
        if len(self.weights) == 1:
            weight = self.weights[0]
            return torch.mm(states, weight) if self.bias is None else torch.addmm(self.bias, states, weight)
        product = torch.cat([torch.mm(states, weight) for weight in self.weights], dim=1)
        return product if self.bias is None else product.add_(self.bias)

    def add_to(self, stream: Float[Tensor, "N M"], states: Float[Tensor, "N K"]) -> None:
        """Adds the product to the stream, in place; in mixed precision the stream alone is in float32."""
        if stream.dtype != self.dtype or (self.packed is not None and len(states) >= PACKED_ROWS):
            stream += self(states)
            return
        stream.addmm_(states, self.weights[0])
        if self.bias is not None:
            stream += self.bias


def _pack(weight: Float[Tensor, "K M"]) -> Tensor | None:
    """Weights blocked as oneDNN reads them: a product of 8 rows with a long vocabulary takes two thirds of the time."""
    able = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    if not able or weight.numel() > PACKED_WEIGHTS:
        return None
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous(), PACKED_ROWS)
    return packed
