"""Products of linear layers, by oneDNN where that is much faster than what torch takes by itself.

On the CPU torch multiplies float32 by MKL, which on some processors (AMD's with AVX-512) may use half of their width.
Dimensions: N rows, K inputs and M outputs of a layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

GAIN = 1.25
"""So many times as fast oneDNN must be; where both use a processor's full width they are within a tenth."""

ROWS = 64
"""For each sum over another number of rows oneDNN compiles, and keeps, 2 MB: it gets multiples of so many alone."""


@cache
def prefers_onednn() -> bool:
    """Whether oneDNN multiplies `GAIN` times as fast here; measured once, in the time of some 20 small products.

    It is the time of one thread, which says the same on a machine that is busy, so that a run repeated is the same run.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    square, threads = torch.ones(512, 512), torch.get_num_threads()
    ours: list[float] = []
    theirs: list[float] = []
    torch.set_num_threads(1)  # several would wait for one another, and that counts
    try:
        for _ in range(8):  # in turns, so that both meet the same machine; the first calls only warm up
            ours.append(_seconds(lambda: by_onednn(square, square)))
            theirs.append(_seconds(lambda: functional.linear(square, square)))
    finally:
        torch.set_num_threads(threads)
    return min(theirs) > GAIN * min(ours)


def _seconds(call: Callable[[], object]) -> float:
    begun = time.thread_time()
    call()
    return time.thread_time() - begun


def by_onednn(
    x: Float[Tensor, "*shape K"], weight: Float[Tensor, "M K"], bias: Float[Tensor, " M"] | None = None
) -> Float[Tensor, "*shape M"]:
    """x·Wᵀ + b by oneDNN, without a graph; the weights may be a transposed view, the states are copied if they are."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def takes_onednn(x: Tensor) -> bool:
    """Whether a product with these states is one for oneDNN."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and prefers_onednn()


def multiply(x: Float[Tensor, "*shape K"], weight: Float[Tensor, "M K"]) -> Float[Tensor, "*shape M"]:
    """x·Wᵀ by the better library; without a graph where that is oneDNN."""
    return by_onednn(x, weight) if takes_onednn(x) else functional.linear(x, weight)


def weight_gradient(slopes: Float[Tensor, "N M"], x: Float[Tensor, "N K"]) -> Float[Tensor, "M K"]:
    """gᵀ·x by the better library; oneDNN copies one of the two, which is the narrower one."""
    whole = len(x) // ROWS * ROWS if takes_onednn(x) else 0
    if not whole:
        return slopes.t() @ x
    left, right = slopes[:whole].t(), x[:whole].t()
    gradient = by_onednn(left, right) if len(left) < len(right) else by_onednn(right, left).t()
    return gradient.addmm_(slopes[whole:].t(), x[whole:]) if whole < len(x) else gradient


class Product(torch.autograd.Function):
    """x·Wᵀ + b by oneDNN, with the gradients g·W, gᵀ·x and the sum of g."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return by_onednn(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        slopes = gradient.flatten(0, -2)
        return (
            by_onednn(gradient, weight.t()) if for_x else None,
            weight_gradient(slopes, x.flatten(0, -2)) if for_weight else None,
            slopes.sum(0) if for_bias else None,
        )


def speed_up_products(model: nn.Module) -> None:
    """Has the linear layers of a model multiply by oneDNN, in float32 on the CPU, where that is worth it."""
    from transformers.pytorch_utils import Conv1D

    if prefers_onednn():
        for layer in model.modules():
            if type(layer) in (nn.Linear, Conv1D):
                layer.forward = partial(_forward, layer)


def _forward(layer: Any, x: Tensor) -> Tensor:
    if not takes_onednn(x):
        return type(layer).forward(layer, x)
    return Product.apply(x, layer.weight if isinstance(layer, nn.Linear) else layer.weight.t(), layer.bias)
