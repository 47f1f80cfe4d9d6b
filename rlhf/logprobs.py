"""Token logprobs, entropy and estimators of the KL divergence, all in nats and float32."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_LOG_RATIO = 20.0

CACHED_LOGITS = 2**17
"""Logits that a core's cache holds beside what is made of them: half a MiB in float32."""


class TokenStatistics(NamedTuple):
    """What a model says of each token, in float32.

    Attributes:
        logprobs: log π of the token.
        entropy: of the distribution it was drawn from.
    """

    logprobs: Float[Tensor, "*shape"]
    entropy: Float[Tensor, "*shape"]


def token_logprobs(
    logits: Float[Tensor, "*shape V"], tokens: Int[Tensor, "*shape"], temperature: float = 1.0
) -> Float[Tensor, "*shape"]:
    """log π(token) at each position: z_token / τ − logsumexp(z / τ), whose gradient is (1{token} − π) / τ."""
    logprobs: Tensor = cast("Any", _Softmax).apply(logits, tokens, temperature, False)[0]
    return logprobs


def token_statistics(
    logits: Float[Tensor, "*shape V"], tokens: Int[Tensor, "*shape"], temperature: float = 1.0
) -> TokenStatistics:
    """`token_logprobs` with the entropy H = −Σ π·log π, whose gradient is −π·(log π + H) / τ."""
    return TokenStatistics(*cast("Any", _Softmax).apply(logits, tokens, temperature, True))


class _Softmax(torch.autograd.Function):
    """Few passes over the vocabulary: one exponential a logit, and none again in the backward pass.

    On the CPU some rows at a time, so that what lies between logits and probabilities is neither held nor written back.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        dtype, vocabulary = torch.promote_types(logits.dtype, torch.float32), logits.shape[-1]
        probabilities = torch.empty(logits.shape, dtype=dtype, device=logits.device)
        size = max(1, tokens.numel() if logits.is_cuda else CACHED_LOGITS // vocabulary)
        rows = (flat.split(size) for flat in (logits.reshape(-1, vocabulary), probabilities.view(-1, vocabulary)))
        parts = []
        for part, weights, chosen in zip(*rows, tokens.reshape(-1, 1).split(size), strict=True):
            wide = part.to(dtype)
            distribution = (wide if temperature == 1.0 else wide / temperature).log_softmax(-1)
            torch.exp(distribution, out=weights)
            with torch.autocast(logits.device.type, enabled=False):  # which would round the sum's products
                entropy = -torch.linalg.vecdot(weights, distribution) if with_entropy else weights.new_empty(0)
            parts.append((distribution.gather(-1, chosen).squeeze(-1), entropy))
        logprobs, entropy = (torch.cat(column) for column in zip(*parts, strict=True))
        logprobs, entropy = logprobs.view(tokens.shape), entropy.view(tokens.shape) if with_entropy else None
        ctx.save_for_backward(probabilities, tokens, entropy)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        probabilities, tokens, entropy = ctx.saved_tensors
        grad = None
        if grad_logprobs is not None:
            scale = grad_logprobs[..., None] / ctx.temperature
            grad = (probabilities * -scale).scatter_add_(-1, tokens[..., None], scale)
        if grad_entropy is not None:
            scale = grad_entropy[..., None] / ctx.temperature
            of_entropy = scale * (torch.special.entr(probabilities) - probabilities * entropy[..., None])
            grad = of_entropy if grad is None else grad + of_entropy
        return None if grad is None else grad.to(ctx.dtype), None, None, None


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
