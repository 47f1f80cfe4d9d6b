"""Rows without padding: a batch's tokens end to end in one row, so that all but attention works on what counts.

Attention takes rows of like length together, filled up on the right to the longest of their group; under a causal mask
no token that counts sees the filler, so that it needs no mask. On a GPU in half precision one kernel takes all rows,
whatever their lengths, and there is no filler. Where rows share their prompt, it stands in the packed row once, and
only attention sees it in each of them.
Dimensions: B batch, P prompt tokens, T response tokens, L = P + T, N packed tokens, M tokens of all groups, W width of
a group, A attention heads, S tokens attended to, H hidden, D width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
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
"""Filler tokens that another group must save; from 4 to 32, training took equally long within 4 %."""

SHARED = 0.1
"""Prompts that rows share are read once where that saves this part of a batch's tokens; gathering costs too."""


class Group(NamedTuple):
    """Rows side by side in the packed one.

    Attributes:
        rows: how many.
        width: the length that all are filled up to.
    """

    rows: int
    width: int


class Row(NamedTuple):
    """A row of a batch.

    Attributes:
        place: of its first token in the flattened batch.
        prompt: how many tokens the prompt has.
        response: how many of the response are read.
    """

    place: int
    prompt: int
    response: int

    @property
    def length(self) -> int:
        return self.prompt + self.response


class Packing(NamedTuple):
    """Where the tokens of a padded batch stand in the packed row, and where attention has them.

    Attributes:
        source: for each packed token its place in the flattened batch.
        states: for each place of a response, and the one after its end where that is wanted, the packed token that
            predicts it.
        groups: of attention's rows.
        bounds: where each of attention's rows begins among the tokens of the groups, and where the last one ends.
        spread: for each token of the groups the packed one; None where they are the same.
        back: for each packed token one of the groups' that is it; None where they are the same.
    """

    source: Int[Tensor, " N"]
    states: Int[Tensor, "B T"]
    groups: list[Group]
    bounds: Int[Tensor, " B+1"]
    spread: Int[Tensor, " M"] | None = None
    back: Int[Tensor, " N"] | None = None


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


def pack(
    input_ids: Int[Tensor, "B L"],
    attention_mask: Bool[Tensor, "B L"],
    response_mask: Bool[Tensor, "B T"],
    with_end: bool = False,
) -> Packing:
    """Where each token goes; prompts that rows share are read once, where that saves enough.

    Args:
        input_ids: prompts, padded on the left, and responses, padded on the right.
        attention_mask: True at the tokens of either.
        response_mask: True at the tokens of the response.
        with_end: whether the state after a response's last token is wanted; else that token, which predicts nothing,
            is not read.
    """
    rows, owners = _rows(input_ids, attention_mask, response_mask, with_end)
    order = sorted(range(len(rows)), key=lambda row: rows[row].length)
    # The kernel of a GPU takes rows of any length, so that no filler saves it anything.
    group_cost = 0 if input_ids.is_cuda else GROUP_COST
    groups = group_lengths([rows[row].length for row in order], group_cost)
    widths = [group.width for group in groups for _ in range(group.rows)]
    repeated = sum(rows[row].prompt for row, owner in enumerate(owners) if owner != row)
    apart = repeated < SHARED * sum(row.length for row in rows)
    lists: Sequence[list[Any]]
    lists = _apart(rows, order, widths) if apart else _sharing(rows, owners, order, widths)
    source, before, *places = (torch.tensor(each, device=input_ids.device) for each in lists)
    ends = torch.tensor([[row.response] for row in rows], device=input_ids.device)
    written = torch.arange(response_mask.shape[1], device=input_ids.device).minimum(ends)
    # The prompt's last token predicts the first of the response, which may stand elsewhere.
    states = torch.where(written == 0, before[:, :1], before[:, 1:] + written - 1)
    bounds = torch.tensor([0, *accumulate(widths)], dtype=torch.int32, device=input_ids.device)
    return Packing(source, states, groups, bounds, *places)


def _rows(
    input_ids: Int[Tensor, "B L"],
    attention_mask: Bool[Tensor, "B L"],
    response_mask: Bool[Tensor, "B T"],
    with_end: bool,
) -> tuple[list[Row], list[int]]:
    """Each row, and the first that has its prompt."""
    columns, start = input_ids.shape[1], input_ids.shape[1] - response_mask.shape[1]
    read = response_mask.sum(1) if with_end else (response_mask.sum(1) - 1).clamp(min=0)
    lengths = zip(attention_mask[:, :start].sum(1).tolist(), read.tolist(), strict=True)
    rows = [Row(row * columns + start - prompt, prompt, response) for row, (prompt, response) in enumerate(lengths)]
    first_with: dict[tuple[int, ...], int] = {}
    prompts = (tuple(ids[start - row.prompt :]) for ids, row in zip(input_ids[:, :start].tolist(), rows, strict=True))
    return rows, [first_with.setdefault(prompt, row) for row, prompt in enumerate(prompts)]


def _apart(rows: Sequence[Row], order: Sequence[int], widths: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """The packed row is attention's rows, filler and all: the last token of each again."""
    source: list[int] = []
    before = [[0, 0]] * len(rows)
    for row, width in zip(order, widths, strict=True):
        place, length = rows[row].place, rows[row].length
        response = len(source) + rows[row].prompt
        before[row] = [response - 1, response]
        source += [*range(place, place + length), *[place + length - 1] * (width - length)]
    return source, before


def _sharing(
    rows: Sequence[Row], owners: Sequence[int], order: Sequence[int], widths: Sequence[int]
) -> tuple[list[int], list[list[int]], list[int], list[int]]:
    """The packed row has each prompt once, before the response of the first row that has it, and no filler."""
    source: list[int] = []
    prompts, responses = [0] * len(rows), [0] * len(rows)
    for row, (place, prompt, response) in enumerate(rows):
        prompts[row] = len(source) if owners[row] == row else prompts[owners[row]]
        source += range(place, place + prompt) if owners[row] == row else ()
        responses[row] = len(source)
        source += range(place + prompt, place + prompt + response)
    spread: list[int] = []
    back = [0] * len(source)
    for row, width in zip(order, widths, strict=True):
        tokens = [
            *range(prompts[row], prompts[row] + rows[row].prompt),
            *range(responses[row], responses[row] + rows[row].response),
        ]
        for place, token in enumerate(tokens, len(spread)):
            back[token] = place
        spread += [*tokens, *tokens[-1:] * (width - len(tokens))]
    before = [[prompts[row] + rows[row].prompt - 1, responses[row]] for row in range(len(rows))]
    return source, before, spread, back


def group_lengths(lengths: Sequence[int], group_cost: int = GROUP_COST) -> list[Group]:
    """The cheapest groups of rows in ascending order of length: filler tokens plus a cost for each group.

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
            options.append((best[start][0] + group_cost + rows * width - tokens, start, Group(rows, width)))
        cost, start, group = min(options)
        best.append((cost, [*best[start][1], group]))
    return best[-1][1]


def packed_states(
    layers: Any, input_ids: Int[Tensor, "B L"], position_ids: Int[Tensor, "B L"], packing: Packing
) -> Float[Tensor, "B T H"]:
    """The last hidden states, those that predict each response token."""
    states = layers(
        input_ids=input_ids.flatten()[packing.source][None],
        position_ids=position_ids.flatten()[packing.source][None],
        # A mask of four dimensions is taken as it is; any other would make transformers draw one of N × N.
        attention_mask=torch.zeros(1, 1, 1, 1, device=input_ids.device),
        use_cache=False,
        packing=packing,
    ).last_hidden_state.squeeze(0)
    return states.index_select(0, packing.states.flatten()).view(*packing.states.shape, -1)


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
    half = _half_precision(query, options.get("dropout"))
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


def _half_precision(query: Float[Tensor, "B A L D"], dropout: float | None) -> torch.dtype | None:
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
    places = torch.arange(width, device=device)
    distance = places[:, None] - places
    return ((distance >= 0) & (distance < window))[None, None]
