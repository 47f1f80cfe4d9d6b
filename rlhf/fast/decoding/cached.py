"""Writing with a model of a common family: prompts read without padding, then one short step a token.

Keys and values lie in a cache of fixed size, prompts on the right of their padding, so that all rows write into the
same column. A row that is done makes room: the last one takes its place.
Dimensions: B rows at the start, N rows that are still written, U prompts that differ, S tokens of them all, P tokens
of the longest, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rlhf.fast.decoding.networks import Network, project
from rlhf.masking import length_mask

CHUNK_TOKENS = 1024
NEVER = float("-inf")


class CachedDecoder:
    """One-token steps over a cache of fixed size.

    Args:
        network: as read from the model as it is now.
        embedding: the model's own, which may know more ids than its vocabulary has.
        prompts: one a row.
        steps: how many tokens may be drawn.
        context: how many tokens a row may hold.

    Attributes:
        states: the last hidden ones, of the last logits, N × H.
    """

    patience = 1 / 16
    """The share of rows that may be done before it pays to drop them."""

    def __init__(
        self, network: Network, embedding: nn.Module, prompts: Sequence[Sequence[int]], steps: int, context: int
    ) -> None:
        self.network, self.embedding, self.last_position = network, embedding, context - 1
        self.states: Tensor | None = None
        self.prompts = [tuple(prompt) for prompt in prompts]
        self.column = max(map(len, prompts))
        shape = (len(network.layers), 2, len(prompts), network.kv_heads, self.column + steps, network.head_width)
        self.cache = torch.empty(shape, device=network.embedding.device, dtype=network.head.dtype)
        self.positions = torch.tensor([len(prompt) for prompt in prompts], device=self.cache.device)
        filler = torch.arange(shape[4], device=self.cache.device) < self.column - self.positions[:, None]
        mask = torch.zeros(filler.shape, device=self.cache.device, dtype=self.cache.dtype).masked_fill_(filler, NEVER)
        self.mask = mask[:, None, None].expand(-1, network.kv_heads, 1, -1).contiguous()
        self._view(len(prompts))

    @torch.inference_mode()
    def first(self) -> Float[Tensor, "B V"]:
        """The logits of every row's first token, in float32; equal prompts are read once, for all their rows."""
        order = {prompt: number for number, prompt in enumerate(dict.fromkeys(self.prompts))}
        row = torch.tensor([order[prompt] for prompt in self.prompts], device=self.cache.device)
        grid = _grid(list(order), self.cache.device)
        network, heads = self.network, self.network.heads
        stream = self.embedding(grid.ids)
        if network.position_table is not None:
            stream = stream + network.position_table[grid.positions]
        rotation = None if network.rotations is None else network.rotations[grid.positions][:, None]
        for layer, cache in zip(network.layers, self.cache, strict=True):
            last = layer is network.layers[-1]  # whose last tokens alone are asked for
            packed = project(network, layer, stream, rotation)
            states = packed.new_zeros(*grid.visible.shape[:2], *packed.shape[1:])
            states[grid.rows, grid.columns] = packed
            queries, keys, values = states.transpose(1, 2).split([heads, network.kv_heads, network.kv_heads], dim=1)
            cache[0, :, :, : self.column], cache[1, :, :, : self.column] = keys[row], values[row]
            first = self.column - 1 if last else 0
            attended = functional.scaled_dot_product_attention(
                queries[:, :, first:],
                keys,
                values,
                grid.visible[:, None, first:],
                scale=layer.scale,
                enable_gqa=heads > network.kv_heads,
            ).transpose(1, 2)
            attended = attended[:, 0] if last else attended[grid.rows, grid.columns]
            stream = stream[grid.ends] if last else stream
            layer.out.add_to(stream, attended.flatten(1))
            for part in stream.split(CHUNK_TOKENS):
                layer.down.add_to(part, layer.feed(layer.feed_norm(part)))
        states = network.norm(stream)
        self.states = states[row]
        return network.head(states).float()[row]

    @torch.inference_mode()
    def next(self, tokens: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
        """The logits after one more token a row, in float32."""
        network, rotation = self.network, None
        stream = network.embedding.index_select(0, tokens)
        if network.position_table is not None:
            stream += network.position_table.index_select(0, self.positions)
        if network.rotations is not None:
            rotation = network.rotations.index_select(0, self.positions)[:, None]
        slots = self.slots.select(-2, self.column).unbind(0)
        self.column += 1
        columns = self.columns.narrow(-2, 0, self.column)
        keys, values = columns.unbind(1)
        mask = self.rows_mask.narrow(-1, 0, self.column)
        kv_heads, width = network.kv_heads, network.head_width
        groups = network.heads // kv_heads
        rows, matrices = tokens.shape[0], tokens.shape[0] * kv_heads
        for layer, slot, key, value in zip(
            network.layers, slots, keys.transpose(-1, -2).unbind(0), values.unbind(0), strict=True
        ):
            states = project(network, layer, stream, rotation).view(rows, groups + 2, kv_heads, width)
            slot.copy_(states.narrow(1, groups, 2))
            queries = states.narrow(1, 0, groups).reshape(matrices, groups, width)
            scores = torch.baddbmm(mask, queries, key, alpha=layer.scale)
            layer.out.add_to(stream, torch.bmm(scores.softmax(-1), value).view(rows, -1))
            layer.down.add_to(stream, layer.feed(layer.feed_norm(stream)))
        # A row that is done may stay for longer than its context would last.
        self.positions.add_(1).clamp_(max=self.last_position)
        self.states = network.norm(stream)
        return network.head(self.states).float()

    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Goes on with these of the rows, in this order."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        self.cache[:, :, moved, :, : self.column] = self.cache[:, :, rows[moved], :, : self.column]
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        self._view(len(rows))

    def _view(self, count: int) -> None:
        """The first rows as matrices, one a layer, row and head; and as a layer's states are laid out."""
        live = self.cache[:, :, :count]
        self.columns, self.slots = live.flatten(2, 3), live.transpose(1, 2)
        self.rows_mask = self.mask.flatten(0, 1)


class Grid(NamedTuple):
    """Prompts without padding, and their positions in columns that end together.

    Attributes:
        ids: of all prompts, one after the other.
        rows: the prompt of each token; `columns` and `positions` likewise.
        ends: the index of the prompts' last tokens.
        visible: which columns the one in the second dimension attends to.
    """

    ids: Int[Tensor, " S"]
    rows: Int[Tensor, " S"]
    columns: Int[Tensor, " S"]
    positions: Int[Tensor, " S"]
    ends: Int[Tensor, " U"]
    visible: Bool[Tensor, "U P P"]


def _grid(prompts: Sequence[Sequence[int]], device: torch.device) -> Grid:
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    width = max(map(len, prompts))
    mask = length_mask(lengths, width).flip(1)
    rows, columns = mask.nonzero(as_tuple=True)
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    ids = torch.tensor([token for prompt in prompts for token in prompt], device=device)
    positions = columns - (width - lengths)[rows]
    return Grid(ids, rows, columns, positions, lengths.cumsum(0) - 1, causal & mask[:, None])
