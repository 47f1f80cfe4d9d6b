"""Token logprobs, entropy and estimators of the KL divergence, all in nats and float32."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_LOG_RATIO = 20.0


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
    """log π(token) at each place: z_token / τ − logsumexp(z / τ), whose gradient is (1{token} − π) / τ."""
    return _Softmax.apply(logits, tokens, temperature, False)[0]


def token_statistics(
    logits: Float[Tensor, "*shape V"], tokens: Int[Tensor, "*shape"], temperature: float = 1.0
) -> TokenStatistics:
    """`token_logprobs` with the entropy H = −Σ π·log π, whose gradient is −π·(log π + H) / τ."""
    return TokenStatistics(*_Softmax.apply(logits, tokens, temperature, True))


class _Softmax(torch.autograd.Function):
    """Few passes over the vocabulary: one exponential a logit, and none again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, tokens: Tensor, temperature: float, with_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        distribution = (wide if temperature == 1.0 else wide / temperature).log_softmax(-1)
        logprobs = distribution.gather(-1, tokens[..., None]).squeeze(-1)
        probabilities = distribution.exp() if with_entropy else distribution.exp_()
        with torch.autocast(logits.device.type, enabled=False):  # which would round the sum's products
            entropy = -torch.linalg.vecdot(probabilities, distribution) if with_entropy else None
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
