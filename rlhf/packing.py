"""Rows without padding: a batch's tokens end to end in one row, so that all but attention works on what counts.

Rows of like length stand together, filled up on the right to the longest of their group; under a causal mask no token
that counts sees the filler, so that attention takes a group at once and needs no mask.
Dimensions: B batch, L tokens of a padded row, N packed tokens, G rows of a group, W their width, A attention heads,
H hidden, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

PACKED = "packed"
"""The name under which transformers knows the attention below."""

FAMILIES = frozenset(
    ("cohere", "gemma", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "phi", "phi3", "qwen2", "qwen3")
)
"""Model types that hand their keyword arguments down to attention, and mix tokens nowhere else."""

GROUP_COST = 8
"""Filler tokens that cost about as much as attention's one call more for another group."""


class Group(NamedTuple):
    """Rows side by side in the packed one.

    Attributes:
        rows: how many.
        width: the length that all are filled up to.
    """

    rows: int
    width: int


class Packing(NamedTuple):
    """Where the tokens of a padded batch stand in the packed row.

    Attributes:
        groups: in their order there.
        source: for each packed token its place in the flattened batch; the filler is the row's last token again.
        starts: where each row of the batch begins.
    """

    groups: list[Group]
    source: Int[Tensor, " N"]
    starts: Int[Tensor, " B"]


def enable_packing(model: nn.Module) -> None:
    """Lets a model of one of the families read packed rows; what it reads padded is computed as ever."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    network: Any = model
    if network.config.model_type in FAMILIES and network.config._attn_implementation == "sdpa":
        AttentionInterface.register(PACKED, packed_attention)
        AttentionMaskInterface.register(PACKED, sdpa_mask)
        network.set_attn_implementation(PACKED)


def can_pack(model: nn.Module) -> bool:
    """Whether the model can read packed rows."""
    network: Any = model
    return network.config._attn_implementation == PACKED


def pack(attention_mask: Bool[Tensor, "B L"]) -> Packing:
    """Where each token goes; the tokens of a row stand side by side."""
    width, device = attention_mask.shape[1], attention_mask.device
    lengths = attention_mask.sum(1)
    firsts = attention_mask.int().argmax(1) + width * torch.arange(len(lengths), device=device)
    order = lengths.argsort(stable=True)
    groups = group_lengths(lengths[order].tolist())
    filled = torch.tensor([group.width for group in groups for _ in range(group.rows)], device=device)
    starts = filled.cumsum(0) - filled
    shift = (firsts[order] - starts).repeat_interleave(filled)
    last = (firsts + lengths - 1)[order].repeat_interleave(filled)
    source = torch.minimum(torch.arange(len(shift), device=device) + shift, last)
    return Packing(groups, source, torch.empty_like(lengths).scatter_(0, order, starts))


def group_lengths(lengths: Sequence[int]) -> list[Group]:
    """The cheapest groups of rows in ascending order of length: filler tokens plus `GROUP_COST` a group.

    Dynamic programming over the distinct lengths: the best way to end a group at each of them.
    """
    counts: dict[int, int] = {}
    for length in lengths:
        counts[length] = counts.get(length, 0) + 1
    steps = list(counts.items())
    best: list[tuple[int, list[Group]]] = [(0, [])]
    for end in range(1, len(steps) + 1):
        width, rows, tokens = steps[end - 1][0], 0, 0
        options = []
        for start in range(end - 1, -1, -1):
            length, count = steps[start]
            rows, tokens = rows + count, tokens + count * length
            options.append((best[start][0] + GROUP_COST + rows * width - tokens, start, Group(rows, width)))
        cost, start, group = min(options)
        best.append((cost, [*best[start][1], group]))
    return best[-1][1]


def packed_states(
    layers: Any, input_ids: Int[Tensor, "B L"], position_ids: Int[Tensor, "B L"], packing: Packing
) -> Float[Tensor, "N H"]:
    """The last hidden states of the packed tokens."""
    return layers(
        input_ids=input_ids.flatten()[packing.source][None],
        position_ids=position_ids.flatten()[packing.source][None],
        # A mask of four dimensions is taken as it is; any other would make transformers draw one of N × N.
        attention_mask=torch.zeros(1, 1, 1, 1, device=input_ids.device),
        use_cache=False,
        groups=packing.groups,
    ).last_hidden_state[0]


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "B A L D"],
    key: Float[Tensor, "B A_kv L D"],
    value: Float[Tensor, "B A_kv L D"],
    attention_mask: Tensor | None,
    groups: Sequence[Group] | None = None,
    **options: Any,
) -> tuple[Float[Tensor, "B L A D"], None]:
    """Scaled dot-product attention, within each row of a packed batch where `groups` tells them."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if groups is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    sizes = [group.rows * group.width for group in groups]
    parts = zip(groups, *(states.split(sizes, dim=2) for states in (query, key, value)), strict=True)
    outputs = []
    for group, *packed in parts:
        q, k, v = (states[0].unflatten(1, group).transpose(0, 1) for states in packed)
        mask = _window_mask(group.width, options.get("sliding_window"), query.device)
        outputs.append(sdpa_attention_forward(module, q, k, v, mask, **options)[0].flatten(0, 1))
    return torch.cat(outputs)[None], None


def _window_mask(width: int, window: int | None, device: torch.device) -> Bool[Tensor, "1 1 W W"] | None:
    """Causal within the last `window` tokens; None where all rows are shorter."""
    if window is None or width <= window:
        return None
    places = torch.arange(width, device=device)
    distance = places[:, None] - places
    return ((distance >= 0) & (distance < window))[None, None]
