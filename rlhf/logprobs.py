"""Token logprobs, entropy and estimators of the KL divergence, all in nats and float32."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

MAX_LOG_RATIO = 20.0


def token_logprobs(
    logits: Float[Tensor, "B T V"], tokens: Int[Tensor, "B T"], temperature: float = 1.0
) -> Float[Tensor, "B T"]:
    """log π(token) at each place: z_token / τ − logsumexp(z / τ), without a log-softmax over the vocabulary."""
    scaled = logits.float() / temperature
    chosen = scaled.gather(-1, tokens[..., None]).squeeze(-1)
    return chosen - scaled.logsumexp(-1)


def token_entropy(logits: Float[Tensor, "B T V"], temperature: float = 1.0) -> Float[Tensor, "B T"]:
    """Entropy of the next-token distribution at each place: logsumexp(z) − Σ p·z with z = logits / τ.

    Computed as −Σ p·log p, for the two terms would cancel where the logits lie far from 0.
    """
    scaled = logits.float() / temperature
    logprobs = scaled - scaled.logsumexp(-1, keepdim=True)
    return -(logprobs.exp() * logprobs).sum(-1)


def kl_estimate(
    logprobs: Float[Tensor, "*shape"], ref_logprobs: Float[Tensor, "*shape"], estimator: str = "k1"
) -> Float[Tensor, "*shape"]:
    """Estimates KL(π ‖ π_ref) at tokens sampled from π, with d = logπ − logπ_ref.

    k1 = d, k2 = d²/2, k3 = e^{−d} − 1 + d. Source: Schulman, "Approximating KL divergence" (2020). k1 and k3
    are unbiased; k3 is never negative; k2 is biased, with little variance.

    Raises:
        ValueError: no such estimator.
    """
    log_ratio = (logprobs - ref_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    if estimator == "k3":
        return torch.expm1(-log_ratio) + log_ratio
    raise ValueError(f"found KL estimator {estimator!r}; expected k1, k2 or k3")
