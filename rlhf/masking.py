"""Statistics over masked entries; in every mask True counts."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean over the entries that count; 0 where none does."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def masked_variance(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Population variance over the entries that count; 0 where none does."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask)


def whitening_scale(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """What brings the entries that count to unit variance: 1 / √(σ² + 1e-8)."""
    return torch.rsqrt(masked_variance(values, mask) + 1e-8)


def whiten(
    values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"], keep_mean: bool = False
) -> Float[Tensor, "*shape"]:
    """Scales the entries that count to unit variance: (x − μ) / √(σ² + 1e-8), plus μ again with `keep_mean`.

    Entries that do not count become 0.
    """
    mean = masked_mean(values, mask)
    whitened = (values - mean) * whitening_scale(values, mask)
    return torch.where(mask, whitened + mean if keep_mean else whitened, 0.0)


def explained_variance(
    values: Float[Tensor, "*shape"], returns: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]
) -> Float[Tensor, ""]:
    """1 − Var(returns − values) / Var(returns): 1 for a perfect critic, 0 for a constant one."""
    return 1.0 - masked_variance(returns - values, mask) / (masked_variance(returns, mask) + 1e-8)


def length_mask(lengths: torch.Tensor, width: int) -> Bool[Tensor, "B T"]:
    """True at the first `lengths[b]` of `width` positions. Masks come from lengths, never from a pad token."""
    return torch.arange(width, device=lengths.device)[None, :] < lengths[:, None]
