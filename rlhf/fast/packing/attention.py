"""Attention within the rows of a packed batch: in groups of like length, or in one kernel for all.

Dimensions: B batch, L tokens of a row, N packed tokens, M tokens of all groups, W width of a group, A attention heads,
A_kv of keys and values, S tokens attended to, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from rlhf.fast.packing.layout import Group, Packing


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "B A L D"],
    key: Float[Tensor, "B A_kv S D"],
    value: Float[Tensor, "B A_kv S D"],
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    **options: Any,
) -> tuple[Float[Tensor, "B L A D"], None]:
    """Scaled dot-product attention, within each row of a packed batch where there is a packing."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    streams = [states.squeeze(0).transpose(0, 1) for states in (query, key, value)]
    if packing.spread is not None:
        streams = [states.index_select(0, packing.spread) for states in streams]
    half = half_precision(query, options.get("dropout"))
    if half is None:
        states = _attend_in_groups(module, streams, packing.groups, **options)
    else:
        states = _attend_at_once([states.to(half) for states in streams], packing, **options)
    return (states if packing.back is None else states.index_select(0, packing.back))[None], None


def _attend_in_groups(
    module: nn.Module, streams: Sequence[Float[Tensor, "M _ D"]], groups: Sequence[Group], **options: Any
) -> Float[Tensor, "M A D"]:
    """Causal attention within the rows of one group after the other, by transformers' own."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    sizes = [group.rows * group.width for group in groups]
    outputs = []
    for group, *parts in zip(groups, *(states.split(sizes) for states in streams), strict=True):
        query, key, value = (part.unflatten(0, group).transpose(1, 2) for part in parts)
        mask = _window_mask(group.width, options.get("sliding_window"), query.device)
        outputs.append(sdpa_attention_forward(module, query, key, value, mask, **options)[0].flatten(0, 1))
    return torch.cat(outputs)


def half_precision(query: Float[Tensor, "B A L D"], dropout: float | None) -> torch.dtype | None:
    """The type in which one kernel may take all rows; None where it can not.

    Under autocast rotary positions leave queries and keys in float32, and it is for attention to round them.
    """
    mixed = torch.is_autocast_enabled(query.device.type)
    dtype = torch.get_autocast_dtype(query.device.type) if mixed else query.dtype
    return dtype if takes_ragged_rows(query.device, dtype, query.shape[-1]) and not dropout else None


def takes_ragged_rows(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether torch's attention for ragged rows runs there: in half precision on a GPU, from Ampere on."""
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    return head_width % 8 == 0 and head_width <= 256 and torch.cuda.get_device_capability(device) >= (8, 0)


def _attend_at_once(
    streams: Sequence[Float[Tensor, "M _ D"]],
    packing: Packing,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> Float[Tensor, "M A D"]:
    """Causal attention within all rows by torch's own kernel for ragged ones (Dao 2023, FlashAttention-2)."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = streams
    longest = max(group.width for group in packing.groups)
    # Of tokens before the one that attends; -1 stands for all of them.
    before = -1 if sliding_window is None or longest <= sliding_window else sliding_window - 1
    grouped: dict[str, Any] = {"enable_gqa": True} if key.shape[1] < query.shape[1] else {}
    bounds = (packing.bounds, packing.bounds, longest, longest)
    attended = varlen_attn(query, key, value, *bounds, scale=scaling, window_size=(before, 0), **grouped)
    assert isinstance(attended, Tensor)
    return attended


def _window_mask(width: int, window: int | None, device: torch.device) -> Bool[Tensor, "1 1 W W"] | None:
    """Causal within the last `window` tokens; None where all rows are shorter."""
    if window is None or width <= window:
        return None
    positions = torch.arange(width, device=device)
    distance = positions[:, None] - positions
    return ((distance >= 0) & (distance < window))[None, None]
