"""What stands in for the forwards of a model that was prepared; `response_states` and the sampler ask for it.

Dimensions: B batch, S states wanted of a row, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlhf.batches import Batch
from rlhf.fast.decoding.cached import CachedDecoder
from rlhf.fast.decoding.networks import read_network
from rlhf.fast.decoding.static import StaticDecoder
from rlhf.fast.packing import can_pack, pack, packed_states


class Forwards:
    """Each answers None where the model's own forward has to do."""

    def states(self, model: Any, batch: Batch, index: Int[Tensor, "B S"]) -> Float[Tensor, "B S H"] | None:
        """The hidden states of a batch from rows without padding; `index` as in `response_states`."""
        if not can_pack(model):
            return None
        packing = pack(batch.input_ids, batch.attention_mask, batch.response_ids.shape[1], index)
        return packed_states(model.get_decoder(), batch.input_ids, batch.position_ids, packing)

    def decoder(self, model: Any, prompts: Sequence[Sequence[int]], steps: int) -> CachedDecoder | StaticDecoder | None:
        """What writes up to so many tokens after encoded prompts: the device's own, where it knows the model."""
        kind = model.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else model.dtype
        network = read_network(model, len(prompts), max(map(len, prompts)) + steps, dtype)
        if network is None:
            return None
        context = model.config.max_position_embeddings
        decoder = CachedDecoder(network, model.get_input_embeddings(), prompts, steps, context)
        return StaticDecoder(decoder) if kind == "cuda" else decoder
