"""Writing on a GPU: a step whose shapes and addresses stay, so that it can be recorded and replayed.

Which column is written, each row's position and the tokens are tensors on the device. In half precision a kernel for
ragged rows attends to what each row has written. Else attention reads the cache's columns up to the end of a bucket,
and those that are not written yet are masked. Where rows ask for nothing but a temperature, the choice of the token
belongs to the step, and nobody looks at what was drawn for a whole round.
Dimensions: B rows at the start, N rows that are still written, K steps of a round, V vocabulary, A heads of queries,
A_kv of keys and values, C columns, S tokens of all rows, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from rlhf.drawing.choosing import Choice, Chooser
from rlhf.drawing.transcript import Transcript
from rlhf.fast.decoding.cached import CachedDecoder
from rlhf.fast.decoding.graphs import Recordings
from rlhf.fast.decoding.networks import project
from rlhf.fast.packing import takes_ragged_rows

BUCKET = 128
"""Columns of a bucket: each is recorded anew, and on average half of one is read in vain."""

ROUND = 16
"""Steps between two looks at which rows are done; after the last row's end as many may be drawn in vain."""

WORTH = 128
"""Steps that may still come where dropping rows pays for recording the step of those that are left."""

T = TypeVar("T")


class StaticDecoder:
    """One-token steps of static shapes; as they are on the CPU, recorded on a GPU.

    Args:
        start: at its beginning; it reads the prompts, and its cache is the one that is written to.
    """

    patience = 1 / 2
    """The share of rows that may be done before it pays to drop them."""

    states = None

    def __init__(self, start: CachedDecoder) -> None:
        self.start, self.network, self.last_position = start, start.network, start.last_position
        self.cache, self.positions, self.written = start.cache.zero_(), start.positions, start.column
        self.room = self.cache.shape[4]
        device, dtype = self.cache.device, self.cache.dtype
        self.ragged = takes_ragged_rows(device, dtype, self.network.head_width)
        self.filler = self.written - self.positions
        self.tokens = torch.zeros_like(self.positions)
        self.column = torch.full((1,), self.written, device=device)
        columns = torch.arange(self.room, device=device)
        hidden = (columns < self.filler[:, None]) | (columns >= self.written)
        # Finite, so that attention may meet a block of hidden columns before any that count.
        never = torch.finfo(dtype).min / 2
        self.mask = torch.zeros(hidden.shape, device=device, dtype=dtype).masked_fill_(hidden, never)
        self._record()

    def first(self) -> Float[Tensor, "B V"]:
        """The logits of every row's first token, in float32; equal prompts are read once, for all their rows."""
        return self.start.first()

    @torch.inference_mode()
    def next(self, tokens: Int[Tensor, " N"]) -> Float[Tensor, "N V"]:
        """The logits after one more token a row, in float32; the next call may overwrite them."""
        self.tokens.copy_(tokens)
        return self.run(self.forward)

    def write(self, chooser: Chooser, transcript: Transcript, steps: int) -> None:
        """Draws until every row is done, asking for that and dropping rows between rounds alone."""
        rounds = Rounds(self, chooser, transcript.left, steps)
        while transcript.left:
            transcript.extend(*rounds.draw(min(ROUND, steps - rounds.drawn)))
            if transcript.left and steps - rounds.drawn >= WORTH:
                kept = transcript.drop(self.patience)
                if kept is not None:
                    rounds.keep(kept)

    def run(self, step: Callable[[], T]) -> T:
        """One more step: a function that calls `forward` once."""
        self.written += 1
        self.width = self.room if self.ragged else min(self.room, _to_bucket(self.written))
        return step() if self.recordings is None else self.recordings.run(self.width, step)

    def forward(self) -> Float[Tensor, "N V"]:
        """The logits after `tokens`, in float32; nothing in it depends on what the host knows but shapes."""
        network, rotation, rows = self.network, None, len(self.tokens)
        stream = network.embedding.index_select(0, self.tokens)
        if network.position_table is not None:
            stream += network.position_table.index_select(0, self.positions)
        if network.rotations is not None:
            rotation = network.rotations.index_select(0, self.positions)[:, None]
        kv_heads, width = network.kv_heads, network.head_width
        groups = network.heads // kv_heads
        mask = self.mask.index_fill_(1, self.column, 0.0).narrow(1, 0, self.width)[:, None, None]
        mask, written = mask.expand(-1, kv_heads, groups, -1), (self.positions + 1).int()
        for layer, cache in zip(network.layers, self.cache[:, :, :rows], strict=True):
            states = project(network, layer, stream, rotation).view(rows, groups + 2, kv_heads, width)
            cache.index_copy_(3, self.column, states.narrow(1, groups, 2).transpose(0, 1).unsqueeze(3))
            # Queries that share their keys stand side by side as if they were a text: the cache is read once.
            queries = states.narrow(1, 0, groups).reshape(rows, kv_heads, groups, width)
            keys, values = cache.narrow(3, 0, self.width).unbind(0)
            if self.ragged:
                attended = self._attend_to_written(queries.flatten(1, 2), keys, values, written, layer.scale)
            else:
                attended = functional.scaled_dot_product_attention(queries, keys, values, mask, scale=layer.scale)
            layer.out.add_to(stream, attended.reshape(rows, -1))
            layer.down.add_to(stream, layer.feed(layer.feed_norm(stream)))
        self.column += 1
        # A row that is done may stay for longer than its context would last.
        self.positions.add_(1).clamp_(max=self.last_position)
        return network.head(network.norm(stream)).float()

    @torch.inference_mode()
    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Goes on with these of the rows, in this order."""
        moved = (rows != torch.arange(len(rows), device=rows.device)).nonzero()[:, 0]
        self.cache[:, :, moved, :, : self.written] = self.cache[:, :, rows[moved], :, : self.written]
        self.tokens, self.positions, self.mask = self.tokens[rows], self.positions[rows], self.mask[rows]
        self.filler = self.filler[rows]
        self._record()

    def _attend_to_written(
        self,
        queries: Float[Tensor, "N A D"],
        keys: Float[Tensor, "N A_kv C D"],
        values: Float[Tensor, "N A_kv C D"],
        written: Int[Tensor, " N"],
        scale: float,
    ) -> Float[Tensor, "N A D"]:
        """One token of each row attends to so many of its row, from where its prompt begins."""
        from torch.nn.attention.varlen import varlen_attn

        grouped: dict[str, Any] = {"enable_gqa": True} if keys.shape[1] < queries.shape[1] else {}
        attended = varlen_attn(
            queries,
            _end_to_end(keys),
            _end_to_end(values),
            self.rows,
            self.begins,
            1,
            self.room,
            scale=scale,
            seqused_k=written,
            **grouped,
        )
        assert isinstance(attended, Tensor)
        return attended

    def _record(self) -> None:
        """Begins anew with recordings: the tensors that they know are no longer those to work on."""
        count, kv_heads = len(self.tokens), self.network.kv_heads
        self.rows = torch.arange(count + 1, device=self.cache.device, dtype=torch.int32)
        self.begins = self.rows * (kv_heads * self.room)  # the last entry, after all rows, is not read
        self.begins[:-1] += self.filler
        self.recordings = open_recordings(self.cache.device)


class Rounds:
    """Tokens drawn in rounds of several steps, whose choice belongs to the step.

    Args:
        decoder: at its beginning.
        chooser: without filters.
        rows: how many.
        steps: how many tokens may be drawn.
    """

    def __init__(self, decoder: StaticDecoder, chooser: Chooser, rows: int, steps: int) -> None:
        self.decoder, self.chooser, self.steps, self.drawn = decoder, chooser, steps, 0
        self.step = torch.zeros(1, dtype=torch.long, device=decoder.cache.device)
        self._make_room(rows)

    @torch.inference_mode()
    def draw(self, count: int) -> tuple[Int[Tensor, "K N"], Float[Tensor, "K N"]]:
        """So many more tokens of each row, and their logprobs; what a row writes after its end means nothing."""
        begun = self.drawn
        for self.drawn in range(begun + 1, begun + count + 1):
            if self.drawn == 1:
                self._note(self.chooser.choose(self.decoder.first(), self.step))
            else:
                self.decoder.run(self._advance)
        return self.tokens[begun : self.drawn], self.logprobs[begun : self.drawn]

    def keep(self, rows: Int[Tensor, " N"]) -> None:
        """Goes on with these of the rows, in this order."""
        self.decoder.keep(rows)
        self.chooser.keep(rows)
        self._make_room(len(rows))

    def _advance(self) -> None:
        self._note(self.chooser.choose(self.decoder.forward(), self.step))

    def _note(self, choice: Choice) -> None:
        self.decoder.tokens.copy_(choice.tokens)
        self.tokens.index_copy_(0, self.step, choice.tokens[None])
        self.logprobs.index_copy_(0, self.step, choice.logprobs[None])
        self.step += 1

    def _make_room(self, rows: int) -> None:
        """For all steps, at the same address as long as the rows are the same."""
        self.tokens = torch.zeros(self.steps, rows, dtype=torch.long, device=self.step.device)
        self.logprobs = torch.zeros(self.steps, rows, device=self.step.device)


def open_recordings(device: torch.device) -> Recordings | None:
    """Recordings on a GPU; elsewhere steps run as they are."""
    return Recordings() if device.type == "cuda" else None


def _end_to_end(cached: Float[Tensor, "N A C D"]) -> Float[Tensor, "S A D"]:
    """A cache laid out row by row and head by head, seen as tokens of all rows: each steps over the other heads.

    A row's tokens begin at its index times A·C; what lies in between belongs to other heads.
    """
    rows, heads, columns, width = cached.shape
    tokens = (rows - 1) * heads * columns + columns
    return cached.as_strided((tokens, heads, width), (width, columns * width, 1))


def _to_bucket(columns: int) -> int:
    return -(-columns // BUCKET) * BUCKET
