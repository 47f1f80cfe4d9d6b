"""Scores of several samples per prompt, as numpy has them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor


def score_matrix(scores: np.ndarray | Tensor, name: str) -> Float[np.ndarray, "N S"]:
    """The scores as float64 [N prompts, S samples], from an array or a tensor on any device.

    Args:
        scores: [N, S] one score per sample.
        name: what the caller calls them, for its errors.

    Raises:
        ValueError: they are no matrix, there are none, or one is not a number.
    """
    matrix = scores.detach().double().cpu().numpy() if isinstance(scores, Tensor) else np.asarray(scores, float)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(
            f"{name} has shape {matrix.shape}; give scores of shape [prompts, samples], at least 1 of each"
        )
    if np.isnan(matrix).any():
        row = int(np.isnan(matrix).any(axis=1).argmax())
        raise ValueError(f"{name}[{row}] holds a nan; give every sample a score")
    return matrix
