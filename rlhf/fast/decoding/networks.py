"""The weights of the common families, laid out for a step of one token a row: GPT-2, Llama, Mistral, Qwen 2 and 3.

Each is a stack of one kind of block: norm, attention, norm, feed-forward, either pair added to the stream. What
differs is the norm, the positions (learnt or rotary), biases, norms of queries and keys, and the activation.
Dimensions: N rows, M outputs of a product, H hidden, C context, A heads of queries, keys and values, D width of a
head, R = D / 2, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from rlhf.fast.decoding.projection import Part, Projection

FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")
ROTARY_FAMILIES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")

Function = Callable[[Tensor], Tensor]


class Layer(NamedTuple):
    """One block.

    Attributes:
        norm: before the attention.
        qkv: queries, keys and values side by side.
        query_norm: of each head's queries, in Qwen 3; `key_norm` likewise.
        scale: of the products of queries and keys.
        out: of the attention.
        feed_norm: before the feed-forward.
        feed: its first half, activation included; `down` is the second.
    """

    norm: Function
    qkv: Projection
    query_norm: Function | None
    key_norm: Function | None
    scale: float
    out: Projection
    feed_norm: Function
    feed: Function
    down: Projection


class Network(NamedTuple):
    """A language model.

    Attributes:
        embedding: of tokens.
        position_table: learnt embeddings of positions.
        rotations: cos + i·sin of each position's angles; a head's queries and keys are then ordered by points, whose
            two numbers stand side by side (in the models' own they stand D/2 apart).
        layers: the blocks, in order.
        norm: after the last.
        head: to the logits.
        heads: of queries; `kv_heads` of keys and values.
    """

    embedding: Float[Tensor, "V H"]
    position_table: Float[Tensor, "C H"] | None
    rotations: Complex[Tensor, "C R"] | None
    layers: list[Layer]
    norm: Function
    head: Projection
    heads: int
    kv_heads: int
    head_width: int


def project(
    network: Network, layer: Layer, stream: Float[Tensor, "N H"], rotation: Complex[Tensor, "N 1 R"] | None
) -> Float[Tensor, "N A D"]:
    """Queries, keys and values of a layer, head by head, at their positions (rotary: Su et al. 2021, eq. 34)."""
    heads, turning = network.heads, network.heads + network.kv_heads
    states = layer.qkv(layer.norm(stream)).view(stream.shape[0], turning + network.kv_heads, network.head_width)
    if layer.query_norm is not None and layer.key_norm is not None:
        states[:, :heads] = layer.query_norm(states[:, :heads])
        states[:, heads:turning] = layer.key_norm(states[:, heads:turning])
    if rotation is not None:
        turned = states.narrow(1, 0, turning)
        pairs = turned.view(stream.shape[0], turning, rotation.shape[-1], 2)
        if states.dtype == torch.float32:
            torch.view_as_complex(pairs).mul_(rotation)
        else:
            turned.copy_(torch.view_as_real(torch.view_as_complex(pairs.float()) * rotation).flatten(-2))
    return states


def read_network(model: Any, rows: int, context: int, dtype: torch.dtype) -> Network | None:
    """The network of a model of a known family; None where only its own forward has it right.

    Args:
        model: a causal language model.
        rows: how many are written at once.
        context: how many tokens a row may hold, padding included.
        dtype: in which products are computed.
    """
    name, config = type(model).__name__, model.config
    read: Callable[[Any, int, int, torch.dtype], Network | None]
    if model.training or hasattr(model, "hf_device_map"):
        return None
    if name == "GPT2LMHeadModel":
        known, read = not config.add_cross_attention, _read_gpt2
    elif name in ROTARY_FAMILIES:
        window = getattr(config, "sliding_window", None)
        known = config.rope_parameters["rope_type"] in FIXED_ROTATIONS and (window is None or context <= window)
        read = _read_rotary
    else:
        return None
    return read(model, rows, context, dtype) if known and _is_plain(model) else None


def _is_plain(model: Any) -> bool:
    """Whether every linear layer is an ordinary one: none is quantised, or has an adapter that is not merged."""
    from transformers.pytorch_utils import Conv1D

    linear = (m for m in model.modules() if getattr(m, "weight", None) is not None and m.weight.ndim == 2)
    return all(isinstance(m, nn.Embedding) or hasattr(m, "embedding") or type(m) in (nn.Linear, Conv1D) for m in linear)


def _read_gpt2(model: Any, rows: int, context: int, dtype: torch.dtype) -> Network:
    body, config = model.transformer, model.config

    def read_layer(block: Any) -> Layer:
        up, activation = Projection([_part(block.mlp.c_fc)], dtype, rows), _activation(block.mlp.act)
        return Layer(
            norm=_layer_norm(block.ln_1),
            qkv=Projection([_part(block.attn.c_attn)], dtype, rows),
            query_norm=None,
            key_norm=None,
            scale=block.attn.scaling,
            out=Projection([_part(block.attn.c_proj)], dtype, rows),
            feed_norm=_layer_norm(block.ln_2),
            feed=lambda states: activation(up(states)),
            down=Projection([_part(block.mlp.c_proj)], dtype, rows),
        )

    return Network(
        embedding=model.get_input_embeddings().weight,
        position_table=body.wpe.weight,
        rotations=None,
        layers=[read_layer(block) for block in body.h],
        norm=_layer_norm(body.ln_f),
        head=Projection([_part(model.lm_head)], dtype, rows, pack=True),
        heads=config.n_head,
        kv_heads=config.n_head,
        head_width=config.n_embd // config.n_head,
    )


def _read_rotary(model: Any, rows: int, context: int, dtype: torch.dtype) -> Network | None:
    body, device = model.model, model.device
    heads, kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
    head_width = body.layers[0].self_attn.head_dim
    points = _by_points(1, head_width, device)
    rotations = _rotations(body.rotary_emb, context, device)
    if rotations.shape[1] * 2 != head_width:
        return None

    def read_layer(block: Any) -> Layer:
        attention, mlp = block.self_attn, block.mlp
        gate_up = Projection([_part(mlp.gate_proj), _part(mlp.up_proj)], dtype, rows)
        activation = _activation(mlp.act_fn)

        def feed(states: Tensor) -> Tensor:
            gate, up = gate_up(states).chunk(2, dim=1)
            return activation(gate).mul_(up)

        return Layer(
            norm=_rms_norm(block.input_layernorm),
            qkv=Projection(
                [
                    _part(attention.q_proj, _by_points(heads, head_width, device)),
                    _part(attention.k_proj, _by_points(kv_heads, head_width, device)),
                    _part(attention.v_proj),
                ],
                dtype,
                rows,
            ),
            query_norm=_rms_norm(attention.q_norm, points) if hasattr(attention, "q_norm") else None,
            key_norm=_rms_norm(attention.k_norm, points) if hasattr(attention, "k_norm") else None,
            scale=attention.scaling,
            out=Projection([_part(attention.o_proj)], dtype, rows),
            feed_norm=_rms_norm(block.post_attention_layernorm),
            feed=feed,
            down=Projection([_part(mlp.down_proj)], dtype, rows),
        )

    return Network(
        embedding=model.get_input_embeddings().weight,
        position_table=None,
        rotations=rotations,
        layers=[read_layer(block) for block in body.layers],
        norm=_rms_norm(body.norm),
        head=Projection([_part(model.lm_head)], dtype, rows, pack=True),
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
    )


def _rotations(rotary: Any, context: int, device: torch.device) -> Complex[Tensor, "C R"]:
    """What the model's own rotary embedding says, whichever its frequencies; its halves are alike."""
    cos, sin = rotary(torch.zeros((), device=device), torch.arange(context, device=device)[None])
    half = cos.shape[-1] // 2
    return torch.complex(cos[0, :, :half], sin[0, :, :half])


def _part(layer: Any, order: Int[Tensor, " M"] | None = None) -> Part:
    """A layer's weights with the inputs along the rows, as `Conv1D` has them; the outputs in the order asked for."""
    weight = layer.weight.t() if isinstance(layer, nn.Linear) else layer.weight
    if order is None:
        return Part(weight, layer.bias)
    return Part(weight[:, order], None if layer.bias is None else layer.bias[order])


def _by_points(heads: int, width: int, device: torch.device) -> Int[Tensor, " M"]:
    """The numbers of each head in the order 0, R, 1, R + 1, …: the two that turn together side by side."""
    return torch.arange(heads * width, device=device).view(heads, 2, -1).transpose(1, 2).flatten()


def _layer_norm(norm: Any) -> Function:
    shape = list(norm.normalized_shape)
    return lambda states: torch.layer_norm(states, shape, norm.weight, norm.bias, norm.eps)


def _rms_norm(norm: Any, order: Int[Tensor, " M"] | None = None) -> Function:
    weight, shape, eps = norm.weight, list(norm.weight.shape), norm.variance_epsilon
    weight = weight if order is None else weight[order]
    return lambda states: torch.rms_norm(states, shape, weight, eps)


def _activation(module: nn.Module) -> Function:
    return functional.silu if type(module).__name__ in ("SiLU", "SiLUActivation") else module
