"""From the last hidden states to what a model says of its tokens: the head, on those tokens alone that count.

Logits are held for one chunk of tokens at a time, and autograd gets one gradient of the states and one of each weight
of the head, however many chunks there are. A loss that is a sum over tokens knows its gradient as soon as it knows its
value (`token_loss`); for any other each chunk's logits are computed again in the backward pass (`response_logprobs`).

Dimensions: B batch, T response tokens, H hidden, V vocabulary, N tokens that count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge

from rlhf.batches import Batch, response_states
from rlhf.logprobs import token_logprobs

CHUNK_LOGITS = 2**23
"""Logits that are held at once on the CPU, as nearly as equal chunks allow: 32 MiB in float32."""

GPU_CHUNK_LOGITS = 2**28
"""The same on a GPU: 1 GiB. Each chunk reads the whole head, and adds to a gradient of that size."""


class TokenLoss(NamedTuple):
    """A loss that is a sum over tokens.

    Attributes:
        total: the sum.
        figures: of each token, by name; for show, so that no gradient is asked of them.
    """

    total: Float[Tensor, ""]
    figures: dict[str, Float[Tensor, "*shape"]]


class Tokens(NamedTuple):
    """Some of the tokens that count.

    Attributes:
        states: those that predict them.
        ids: what they are.
        positions: where they stand in the flattened batch.
    """

    states: Float[Tensor, "N H"]
    ids: Int[Tensor, " N"]
    positions: Int[Tensor, " N"]

    def chunks(self, vocabulary: int) -> list[Tokens]:
        """Chunks of equal size: a last small one would read the head, and add to its gradient, for few tokens."""
        count = max(1, round(len(self.ids) * vocabulary / chunk_logits(self.states.device)))
        return [Tokens(*chunk) for chunk in zip(*(column.tensor_split(count) for column in self), strict=True)]


def chunk_logits(device: torch.device) -> int:
    """About how many logits are held at once."""
    return GPU_CHUNK_LOGITS if device.type == "cuda" else CHUNK_LOGITS


def response_logits(model: nn.Module, batch: Batch) -> Float[Tensor, "B T V"]:
    """The logits that predict each response token; the head runs on these positions alone."""
    return apply_head(model, response_states(model, batch))


def response_logprobs(
    model: nn.Module, batch: Batch, temperature: float = 1.0, states: Float[Tensor, "B T H"] | None = None
) -> Float[Tensor, "B T"]:
    """log π of each response token, 0 where padded; `states` where they are known already."""
    tokens = _select(response_states(model, batch) if states is None else states, batch)
    head = _Head(model)
    chunks = tokens.chunks(head.vocabulary)
    if len(chunks) > 1 and torch.is_grad_enabled():
        logprobs = _Recomputed.apply(model, temperature, *tokens, *head.weights)
    else:
        logprobs = torch.cat([token_logprobs(head(chunk.states), chunk.ids, temperature) for chunk in chunks])
    return _spread(logprobs, batch)


def token_loss(
    model: nn.Module,
    states: Float[Tensor, "B T H"],
    batch: Batch,
    loss: Callable[[Float[Tensor, "N V"], Tokens], TokenLoss],
) -> TokenLoss:
    """A loss that is a sum over response tokens; no logits are computed twice.

    Each chunk's logits become its share of the loss, and at once that share's gradient. A backward pass, of which there
    can be one, hands these gradients on.

    Args:
        model: whose head it is.
        states: from `response_states`.
        batch: prompts and responses.
        loss: of some tokens, from their logits.

    Returns:
        The loss, with its graph; its figures are B × T, without one, and 0 where padded.
    """
    tokens, head, learns = _select(states, batch), _Head(model), torch.is_grad_enabled()
    totals, slopes, figures = [], [], []
    for chunk in tokens.chunks(head.vocabulary):
        start = chunk.states.detach().requires_grad_(learns)
        total, measured = loss(head(start), chunk)
        if learns:
            slopes.append(head.differentiate(total, start))
        totals.append(total.detach())
        figures.append({name: figure.detach() for name, figure in measured.items()})
    total = torch.stack(totals).sum()
    if learns:
        total = _Known.apply(total, [torch.cat(slopes), *head.gradients], tokens.states, *head.weights)
    return TokenLoss(total, {name: _spread(torch.cat([part[name] for part in figures]), batch) for name in figures[0]})


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


class _LayersOutput(tuple[Any, ...]):
    """What a model's layers return: the states first, and nothing else."""

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        return None


def _select(states: Float[Tensor, "B T H"], batch: Batch) -> Tokens:
    """All tokens that count."""
    positions = batch.response_mask.flatten().nonzero()[:, 0]
    return Tokens(states.flatten(0, 1).index_select(0, positions), batch.response_ids.flatten()[positions], positions)


def _spread(figures: Float[Tensor, " N"], batch: Batch) -> Float[Tensor, "B T"]:
    """Figures of all tokens that count, where these stand in the batch."""
    mask = batch.response_mask
    return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, figures)


class _Head:
    """A model's head, and the gradient of each of its weights, summed over chunks.

    Attributes:
        weights: those that learn between the last hidden states and the logits.
        gradients: of each; None before the first chunk, and where no logit depends on it.
    """

    def __init__(self, model: nn.Module) -> None:
        network: Any = model
        self.model, self.layer = model, network.get_output_embeddings()
        self.vocabulary: int = network.config.get_text_config().vocab_size
        stacks = [network.get_decoder(), *([network.get_encoder()] if network.config.is_encoder_decoder else [])]
        # A head may share its weights with the embedding, which is one of the layers below.
        below = {id(weight) for stack in stacks for weight in stack.parameters()}
        below -= {id(weight) for weight in self.layer.parameters()}
        self.weights: list[Tensor] = [
            each for each in network.parameters() if each.requires_grad and id(each) not in below
        ]
        self.gradients: list[Tensor | None] = [None] * len(self.weights)
        self.matrix: Any = self.layer.weight if type(self.layer) is nn.Linear else None
        self.product: tuple[Tensor, GradientEdge] | None = None

    def __call__(self, states: Float[Tensor, "N H"]) -> Float[Tensor, "N V"]:
        """The logits of these states."""

        def note(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            # Not the output itself: where only its softmax is needed, it may go.
            self.product = (inputs[0].detach(), get_gradient_edge(output)) if output.requires_grad else None

        with self.layer.register_forward_hook(note):
            return apply_head(self.model, states[None]).squeeze(0)

    def differentiate(
        self, outputs: Tensor, states: Float[Tensor, "N H"], slopes: Tensor | None = None
    ) -> Float[Tensor, "N H"]:
        """The gradient of the states; that of each weight is added to its sum.

        Of a matrix it is found here, from the slopes of the product: autograd would make another tensor of its size for
        each chunk, to be added to the one before.

        Args:
            outputs: what was made of the last logits.
            states: which those are of.
            slopes: the gradient of the outputs; None of a scalar.
        """
        assert self.product is not None
        read, edge = self.product
        leaves: list[Any] = [edge if weight is self.matrix else weight for weight in self.weights]
        with torch.autocast(states.device.type, enabled=False):  # which would round products of float32
            gradient, *gradients = torch.autograd.grad(outputs, [states, *leaves], slopes, allow_unused=True)
            for row, (weight, each) in enumerate(zip(self.weights, gradients, strict=True)):
                total = self.gradients[row]
                if weight is self.matrix:
                    self.gradients[row] = _add_product(weight, total, each.flatten(0, -2), read.flatten(0, -2))
                elif each is not None:
                    self.gradients[row] = each if total is None else total + each
        return gradient


def _add_product(
    weight: Float[Tensor, "V H"],
    total: Float[Tensor, "V H"] | None,
    slopes: Float[Tensor, "N V"],
    states: Float[Tensor, "N H"],
) -> Float[Tensor, "V H"]:
    """total + slopesᵀ·states, in place where there is a total; under autocast both factors are in half precision."""
    left, right = slopes.t(), states.to(slopes.dtype)
    if total is None:
        return (left @ right).to(weight.dtype)
    return total.addmm_(left, right) if total.dtype == slopes.dtype else total.add_(left @ right)


class _Known(torch.autograd.Function):
    """A value whose gradients are known: apply(value, gradients, *inputs), one of each input."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor | None], *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        if slope != 1.0:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(slope)  # in place: it may be as large as the vocabulary
        return None, None, *gradients


class _Recomputed(torch.autograd.Function):
    """log π of tokens, chunk by chunk, and each chunk once more in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, model: nn.Module, temperature: float, states: Tensor, ids: Tensor, positions: Tensor, *weights: Tensor
    ) -> Tensor:
        kind = states.device.type
        ctx.model, ctx.temperature = model, temperature
        ctx.autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        ctx.save_for_backward(states, ids, positions, *weights)  # the weights too, so that a step in between is noticed
        head = _Head(model)
        chunks = Tokens(states, ids, positions).chunks(head.vocabulary)
        return torch.cat([token_logprobs(head(chunk.states), chunk.ids, temperature) for chunk in chunks])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor | None, ...]:
        tokens, head, gradients = Tokens(*ctx.saved_tensors[:3]), _Head(ctx.model), []
        enabled, dtype = ctx.autocast
        chunks = tokens.chunks(head.vocabulary)
        for chunk, slope in zip(chunks, slopes.tensor_split(len(chunks)), strict=True):
            start = chunk.states.detach().requires_grad_()
            with (
                torch.enable_grad(),
                torch.autocast(start.device.type, dtype=dtype, enabled=enabled, cache_enabled=False),
            ):
                logprobs = token_logprobs(head(start), chunk.ids, ctx.temperature)
            gradients.append(head.differentiate(logprobs, start, slope))
        return None, None, torch.cat(gradients), None, None, *head.gradients
