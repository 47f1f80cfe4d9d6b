"""Drawing a token: the cumulative distribution inverted at a uniform number, in the order of the vocabulary.

Dimensions: B batch, V vocabulary, N blocks that the vocabulary is cut into.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BELOW_ONE = 1.0 - 2.0**-50
"""Keeps a target below the sum it is looked for in."""

SMALL_VOCABULARY = 2048
"""Up to so many tokens are summed up one by one: blocks save less than their operations cost."""


class Cumulative(NamedTuple):
    """A distribution, summed up over blocks of the vocabulary alone.

    Attributes:
        weights: softmax(z), whose sum is 1 but for rounding.
        ends: the sum of the weights up to the end of each block, in double precision.
    """

    weights: Float[Tensor, "B V"]
    ends: Float[Tensor, "B N"]


def cumulate(logits: Float[Tensor, "B V"]) -> Cumulative:
    """The cumulative distribution at the ends of blocks of tokens.

    The sums over blocks are added up in double precision, so that a long vocabulary costs no accuracy.
    """
    weights = logits.softmax(-1)
    return Cumulative(weights, _block_sums(weights, block_size(logits.shape[1])).cumsum(-1, dtype=torch.float64))


def block_size(vocabulary: int) -> int:
    """The power of two at or above √V; 1 for a small vocabulary."""
    return 1 if vocabulary <= SMALL_VOCABULARY else 1 << ((vocabulary - 1).bit_length() + 1) // 2


def _block_sums(weights: Float[Tensor, "B V"], size: int) -> Float[Tensor, "B N"]:
    if size == 1:
        return weights
    complete = weights.shape[1] // size * size
    sums: Tensor = weights[:, :complete].unflatten(1, (-1, size)).sum(-1)
    if complete == weights.shape[1]:
        return sums
    return torch.cat([sums, weights[:, complete:].sum(-1, keepdim=True)], dim=1)


def invert(cumulative: Cumulative, uniform: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """The token at `uniform` of the cumulative distribution: first the block it falls in, then the index there.

    A token of weight 0 is never returned: the sum exceeds its target only where something was added.
    """
    weights, ends = cumulative
    size = block_size(weights.shape[1])
    # Scaling by the last entry keeps the target below the total, whatever rounding did to the sum.
    targets = uniform.double()[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, targets, right=True).clamp_(max=ends.shape[1] - 1)
    if size == 1:
        return block[:, 0]
    # Past the vocabulary the last block repeats its last token; such an index is never the first to exceed the target.
    tokens = (block * size + torch.arange(size, device=weights.device)).clamp_(max=weights.shape[1] - 1)
    inside = weights.gather(1, tokens).cumsum(-1, dtype=torch.float64)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp_(min=0)), 0.0)
    # The block's sum was taken in float32 and may exceed this one by its rounding.
    rest = torch.minimum(targets - before, inside[:, -1:] * BELOW_ONE)
    index = torch.searchsorted(inside, rest, right=True).clamp_(max=size - 1)
    return tokens.gather(1, index)[:, 0]


def log_chances(cumulative: Cumulative, tokens: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """log π of tokens that were drawn; the sum in double precision takes out what rounding did to the softmax."""
    drawn = cumulative.weights.gather(1, tokens[:, None])[:, 0]
    return (drawn / cumulative.ends[:, -1]).log().float()
