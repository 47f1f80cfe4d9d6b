"""Writing with a model of a common family: its prompt by its own forward, then one short step a token, by hand.

Keys and values lie in a cache of fixed size, prompts on the right of their padding, so that all rows write into the
same column. A row that is done makes room: the last one takes its place.
Dimensions: B rows at the start, N rows that are still written, L columns of the cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from rlhf.generation.controls import NEVER
from rlhf.generation.decoding import prompt_inputs
from rlhf.generation.networks import Layer, Network


class CachedDecoder:
    """One-token steps over a cache of fixed size.

    Args:
        model: whose network it is.
        network: as read from the model as it is now.
        prompts: one a row.
        steps: how many tokens may be drawn.
    """

    patience = 1 / 16
    """The share of rows that may be done before it pays to drop them."""

    def __init__(self, model: Any, network: Network, prompts: Sequence[Sequence[int]], steps: int) -> None:
        self.model, self.network, self.prompts = model, network, [tuple(prompt) for prompt in prompts]
        self.column = max(map(len, prompts))
        self.last_position = model.config.max_position_embeddings - 1
        shape = (len(network.layers), 2, len(prompts), network.kv_heads, self.column + steps, network.head_width)
        self.cache = torch.empty(shape, device=model.device, dtype=network.head.dtype)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
        filler = torch.arange(shape[4], device=model.device) < self.column - lengths[:, None]
        mask = torch.zeros(filler.shape, device=model.device, dtype=network.head.dtype).masked_fill_(filler, NEVER)
        self.mask = mask[:, None, None].expand(-1, network.kv_heads, 1, -1).contiguous()
        self.positions = lengths
        self._view(len(prompts))

    def first(self) -> Float[Tensor, "B V"]:
        """The logits of every row's first token, in float32; equal prompts are read once, for all their rows."""
        places = {prompt: place for place, prompt in enumerate(dict.fromkeys(self.prompts))}
        inputs = prompt_inputs(self.model, list(places), self.cache.device)
        output = self.model(**inputs, use_cache=True)
        row = torch.tensor([places[prompt] for prompt in self.prompts], device=self.cache.device)
        for (keys, values), read in zip(self.cache[..., : self.column, :], output.past_key_values.layers, strict=True):
            keys.copy_((read.keys if self.network.rotations is None else _interleave(read.keys))[row])
            values.copy_(read.values[row])
        return output.logits[row, -1].float()

    @torch.autocast("cpu", enabled=False)
    @torch.autocast("cuda", enabled=False)
    def next(self, tokens: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
        """The logits after one more token a row, in float32."""
        network, rotation = self.network, None
        stream = network.embedding.index_select(0, tokens)
        if network.places is not None:
            stream += network.places.index_select(0, self.positions)
        if network.rotations is not None:
            rotation = network.rotations.index_select(0, self.positions)[:, None]
        slots = self.slots.select(-2, self.column).unbind(0)
        self.column += 1
        columns = self.columns.narrow(-2, 0, self.column)
        mask, transposed = self.rows_mask.narrow(-1, 0, self.column), columns.transpose(-1, -2).unbind(0)
        for layer, slot, keys, values in zip(
            network.layers, slots, transposed[::2], columns.unbind(0)[1::2], strict=True
        ):
            queries = self._project(layer, stream, rotation, slot)
            weights = torch.baddbmm(mask, queries, keys, alpha=layer.scale).softmax(-1)
            stream = layer.out.onto(stream, torch.bmm(weights, values).view(len(tokens), -1))
            stream = layer.down.onto(stream, layer.feed(layer.feed_norm(stream)))
        # A row that is done may stay for longer than its context would last.
        self.positions.add_(1).clamp_(max=self.last_position)
        return network.head(network.norm(stream)).float()

    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Goes on with these of the rows, in this order."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        self.cache[:, :, moved, :, : self.column] = self.cache[:, :, rows[moved], :, : self.column]
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        self._view(len(rows))

    def _view(self, count: int) -> None:
        """The cache of the first rows: as one matrix a head, layer by layer, and as what a step writes to."""
        live = self.cache[:, :, :count]
        self.columns = live.flatten(0, 1).flatten(1, 2)  # [layers · 2, rows · heads, columns, width]
        self.slots = live
        self.rows_mask = self.mask.flatten(0, 1)

    def _project(
        self, layer: Layer, stream: Float[Tensor, "N H"], rotation: Complex[Tensor, "N 1 R"] | None, slot: Tensor
    ) -> Float[Tensor, "_ _ D"]:
        """Queries, grouped by the keys that they share; keys and values go to their place in the cache."""
        heads, kv_heads, width = self.network.heads, self.network.kv_heads, self.network.head_width
        states = layer.qkv(layer.norm(stream)).view(len(stream), -1, width)
        if rotation is None:
            queries = states[:, :heads]
            slot.copy_(states[:, heads:].unflatten(1, (2, kv_heads)).transpose(0, 1))
        else:
            turned = states[:, : heads + kv_heads]
            if layer.query_norm is not None and layer.key_norm is not None:
                turned = torch.cat([layer.query_norm(turned[:, :heads]), layer.key_norm(turned[:, heads:])], dim=1)
            turned = _rotate(turned, rotation)
            queries = turned[:, :heads]
            slot[0].copy_(turned[:, heads:])
            slot[1].copy_(states[:, heads + kv_heads :])
        return queries.reshape(len(stream) * kv_heads, -1, width)


def _rotate(states: Float[Tensor, "N A D"], rotation: Complex[Tensor, "N 1 R"]) -> Float[Tensor, "N A D"]:
    """Rotary positions (Su et al. 2021): number i and number i + R of a head are a point, which turns.

    Differs from the models' own in the order of what comes out: a point's two numbers stand side by side. Queries and
    keys share it, so their products are the same.
    """
    half = states.shape[-1] // 2
    points = torch.complex(states[..., :half].float(), states[..., half:].float()).mul_(rotation)
    return torch.view_as_real(points).flatten(-2).to(states.dtype)


def _interleave(states: Float[Tensor, "*shape D"]) -> Float[Tensor, "*shape D"]:
    """What the models' own rotation gives, in the order of ours."""
    return states.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
