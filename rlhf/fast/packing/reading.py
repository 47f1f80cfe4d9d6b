"""Models that read packed rows: which can, how they are made to, and what states they then have.

Dimensions: B batch, L tokens of a padded row, S states wanted of a row, N packed tokens, U of them whose states are
wanted, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlhf.fast.packing.attention import packed_attention
from rlhf.fast.packing.layout import Packing

PACKED = "packed"
"""The name under which transformers knows attention within packed rows."""

FAMILIES = frozenset(
    ("cohere", "gemma", "gpt2", "gpt_neox", "granite", "llama", "mistral", "olmo2", "phi", "phi3", "qwen2", "qwen3")
)
"""Model types that hand their keyword arguments down to attention, mix tokens nowhere else, and call a layer's last
part `mlp`."""


def enable_packing(model: nn.Module) -> None:
    """Lets a model of one of the families read packed rows; what it reads padded is computed as ever.

    Of packed rows its last layer feeds forward what is wanted alone.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask
    from transformers.modeling_layers import GradientCheckpointingLayer

    network: Any = model
    if network.config.model_type in FAMILIES and network.config._attn_implementation == "sdpa":
        AttentionInterface.register(PACKED, packed_attention)
        AttentionMaskInterface.register(PACKED, sdpa_mask)
        network.set_attn_implementation(PACKED)
        last: Any = [layer for layer in network.modules() if isinstance(layer, GradientCheckpointingLayer)][-1]
        last.forward = partial(_feed_wanted, last.forward, last.mlp)


def can_pack(model: nn.Module) -> bool:
    """Whether the model can read packed rows."""
    network: Any = model
    return network.config._attn_implementation == PACKED


def packed_states(
    layers: Any, input_ids: Int[Tensor, "B L"], position_ids: Int[Tensor, "B L"], packing: Packing
) -> Float[Tensor, "B S H"]:
    """The last hidden states that are wanted."""
    states = layers(
        input_ids=input_ids.flatten()[packing.source][None],
        position_ids=position_ids.flatten()[packing.source][None],
        # A mask of four dimensions is taken as it is; any other would make transformers draw one of N × N.
        attention_mask=torch.zeros(1, 1, 1, 1, device=input_ids.device),
        use_cache=False,
        packing=packing,
    ).last_hidden_state.squeeze(0)
    return states.index_select(0, packing.states.flatten()).view(*packing.states.shape, -1)


def _feed_wanted(
    forward: Callable[..., Tensor], mlp: nn.Module, *args: Any, packing: Packing | None = None, **options: Any
) -> Tensor:
    """The last layer, its feed-forward on those tokens alone whose states are wanted; the others' states mean nothing.

    It changes the call of a layer, so that a layer whose activations are computed again does the same then.
    """
    if packing is None:
        return forward(*args, **options)

    def pick(_: nn.Module, inputs: tuple[Float[Tensor, "1 N H"]]) -> Float[Tensor, "1 U H"]:
        return inputs[0].index_select(1, packing.wanted)

    def put_back(_: nn.Module, inputs: object, output: Float[Tensor, "1 U H"]) -> Float[Tensor, "1 N H"]:
        return output.new_zeros(1, len(packing.source), output.shape[2]).index_copy(1, packing.wanted, output)

    with mlp.register_forward_pre_hook(pick), mlp.register_forward_hook(put_back):
        return forward(*args, packing=packing, **options)
