"""Has every linear layer multiply by oneDNN, forward and backward, so that contenders can be raced on one library.

As installed, torch multiplies float32 on the CPU by MKL, which on some processors runs at half of oneDNN's rate.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Product(torch.autograd.Function):
    """x·Wᵀ + b with gradients g·W, gᵀ·x and the sum of g."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(x, weight)
        context.has_bias = bias is not None
        return multiply(x, weight, bias)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = context.saved_tensors
        (gradient,) = gradients
        flat = gradient.flatten(0, -2)
        return (
            multiply(gradient, weight.t()) if context.needs_input_grad[0] else None,
            multiply(flat.t(), x.flatten(0, -2).t()) if context.needs_input_grad[1] else None,
            flat.sum(0) if context.has_bias else None,
        )


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·Wᵀ + b by oneDNN."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def install() -> None:
    """Replaces the product of torch's and GPT-2's linear layers, for float32 on the CPU."""
    from transformers.pytorch_utils import Conv1D

    usual = torch.nn.functional.linear

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.dtype != torch.float32 or x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return usual(x, weight, bias)
        result: Tensor = Product.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return result

    torch.nn.functional.linear = linear  # type: ignore[assignment]
    Conv1D.forward = lambda layer, x: linear(x, layer.weight.t(), layer.bias)
