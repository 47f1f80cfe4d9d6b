"""Has every linear layer multiply by oneDNN, forward and backward, so that contenders can be raced on one library.

As installed, torch multiplies float32 on the CPU by MKL, which on some processors runs at half of oneDNN's rate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf import products


def install() -> None:
    """Replaces the product of torch's and GPT-2's linear layers, for float32 on the CPU, before ours is imported."""
    from transformers.pytorch_utils import Conv1D

    usual = torch.nn.functional.linear

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        taken = products.takes_onednn(x)
        result: Tensor = products.Product.apply(x, weight, bias) if taken else usual(x, weight, bias)
        return result

    products.prefers_onednn = lambda: True
    torch.nn.functional.linear = linear  # type: ignore[assignment]
    Conv1D.forward = lambda layer, x: linear(x, layer.weight.t(), layer.bias)
