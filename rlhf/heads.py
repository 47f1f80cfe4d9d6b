"""From the last hidden states to what a model says of its tokens: the head, on those tokens alone that count.

Dimensions: B batch, T response tokens, H hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from rlhf.batches import Batch, response_states
from rlhf.logprobs import token_logprobs
from rlhf.products import multiply, takes_onednn, weight_gradient

CHUNK_LOGITS = 2**23
"""Logits that are held at once on the CPU, as nearly as equal chunks allow: 32 MiB in float32."""

GPU_CHUNK_LOGITS = 2**28
"""The same on a GPU: 1 GiB. Each chunk reads the whole head, and adds to a gradient of that size."""


def apply_head(model: nn.Module, states: Float[Tensor, "B T H"]) -> Float[Tensor, "B T V"]:
    """The logits of hidden states, by the model's own forward with a stand-in for its layers.

    What lies between the last state and the logits differs from family to family: Gemma caps them, Cohere and
    Granite scale them, T5 scales the states, BART adds a bias. The model's forward has it right.
    """
    network: Any = model
    layers, nothing = network.get_decoder(), states[:, :0]
    if network.config.is_encoder_decoder:
        inputs = {"encoder_outputs": (nothing,), "decoder_inputs_embeds": nothing}
    else:
        inputs = {"inputs_embeds": nothing}
    layers.forward = lambda *_, **__: _LayersOutput((states,))
    try:
        logits = network(**inputs, use_cache=False).logits
    finally:
        del layers.forward
    assert logits.shape[:2] == states.shape[:2], f"{type(network).__name__} does not call {type(layers).__name__}"
    return logits


class _LayersOutput(tuple):
    """What a model's layers return: the states first, and nothing else."""

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        return None


def response_logprobs(
    model: nn.Module, batch: Batch, temperature: float = 1.0, states: Float[Tensor, "B T H"] | None = None
) -> Float[Tensor, "B T"]:
    """log π of each response token, 0 where padded; `states` where they are known already.

    Where the head runs on several chunks, each one's logits are computed again in the backward pass, so that those of
    one alone are held at any time.
    """
    states = response_states(model, batch) if states is None else states
    chunks = _split(model, states, batch)
    again = len(chunks) > 1 and torch.is_grad_enabled()

    def run(states: Tensor, tokens: Tensor) -> Tensor:
        with _one_gradient(model) if again else nullcontext():
            return token_logprobs(apply_head(model, states[None]).squeeze(0), tokens, temperature)

    parts = [checkpoint(run, *chunk[:2], use_reentrant=False) if again else run(*chunk[:2]) for chunk in chunks]
    return _spread(parts, batch)


def learn_tokens(
    model: nn.Module,
    states: Float[Tensor, "B T H"],
    batch: Batch,
    measure: Callable[[Float[Tensor, "N V"], Int[Tensor, " N"]], tuple[Float[Tensor, " N"], ...]],
    loss: Callable[[tuple[Float[Tensor, " N"], ...], Int[Tensor, " N"]], Float[Tensor, ""]],
) -> tuple[Float[Tensor, ""], tuple[Float[Tensor, "B T"], ...]]:
    """Goes back through the head, chunk by chunk, for a loss that is a sum over tokens; no logits are computed twice.

    Where gradients are off it only measures.

    Args:
        model: whose head it is; its weights get their gradients here.
        states: from `response_states`.
        batch: prompts and responses.
        measure: what the loss is made of, from logits and tokens.
        loss: the sum over some tokens, from what was measured of them and their places in the flattened batch.

    Returns:
        A scalar to go back through next, whose gradient is that of the loss for what lies below the head; and what was
        measured of every token, without a graph, 0 where padded.
    """
    rest, parts = torch.zeros((), device=states.device), []
    for chunk in _split(model, states, batch):
        start = chunk.states.detach().requires_grad_()
        with _one_gradient(model):
            part = measure(apply_head(model, start[None]).squeeze(0), chunk.tokens)
        parts.append([tensor.detach() for tensor in part])
        if torch.is_grad_enabled():
            loss(part, chunk.places).backward()
            assert start.grad is not None
            rest = rest + (chunk.states * start.grad).sum()
    return rest, tuple(_spread(column, batch) for column in zip(*parts, strict=True))


class _Chunk(NamedTuple):
    """Some of the tokens that count, the states that predict them, and their places in the flattened batch."""

    states: Float[Tensor, "N H"]
    tokens: Int[Tensor, " N"]
    places: Int[Tensor, " N"]


def _split(model: nn.Module, states: Float[Tensor, "B T H"], batch: Batch) -> list[_Chunk]:
    """Chunks of equal size: a last small one would read the head, and write its gradient, for few tokens."""
    places = batch.response_mask.flatten().nonzero()[:, 0]
    logits = len(places) * cast("Any", model).config.get_text_config().vocab_size
    count = max(1, round(logits / chunk_logits(states.device)))
    columns = states.flatten(0, 1).index_select(0, places), batch.response_ids.flatten()[places], places
    return [_Chunk(*chunk) for chunk in zip(*(column.tensor_split(count) for column in columns), strict=True)]


def _spread(parts: Sequence[Float[Tensor, " _"]], batch: Batch) -> Float[Tensor, "B T"]:
    """The chunks' figures at their places in the batch."""
    mask = batch.response_mask
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, torch.cat(list(parts)))


@contextmanager
def _one_gradient(model: nn.Module) -> Iterator[None]:
    """What the block computes with the head adds to its gradient in place, where the head is a plain product."""
    head = cast("Any", model).get_output_embeddings()
    plain = type(head) is nn.Linear and head.bias is None and head.weight.is_leaf and head.weight.requires_grad
    if not plain or torch.is_autocast_enabled(head.weight.device.type):
        yield
        return
    usual = vars(head).pop("forward", None)
    head.forward = lambda states: _Product.apply(states, head.weight)
    try:
        yield
    finally:
        del head.forward
        if usual is not None:
            head.forward = usual


class _Product(torch.autograd.Function):
    """States times weights, whose gradient goes straight to `weights.grad`.

    Left to autograd, each chunk makes another tensor of the size of the weights, to be added to the one before.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(states)
        ctx.weights = weights  # themselves: what a recomputation saves is a copy that shares their memory
        return multiply(states, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (states,), weights = ctx.saved_tensors, ctx.weights
        slopes, states = grad.flatten(0, -2), states.flatten(0, -2)
        if weights.grad is None:
            weights.grad = weight_gradient(slopes, states).contiguous()
        elif takes_onednn(states):
            weights.grad += weight_gradient(slopes, states)
        else:
            weights.grad.addmm_(slopes.t(), states)
        return multiply(grad, weights.t()), None


def chunk_logits(device: torch.device) -> int:
    """About how many logits are held at once."""
    return GPU_CHUNK_LOGITS if device.type == "cuda" else CHUNK_LOGITS


def response_logits(model: nn.Module, batch: Batch) -> Float[Tensor, "B T V"]:
    """The logits that predict each response token; the head runs on these places alone."""
    return apply_head(model, response_states(model, batch))
