"""Demonstrations as token ids, how unlikely a policy finds their responses, and the gradient of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.batches import make_batch, response_states
from rlhf.heads import TokenLoss, Tokens, response_logprobs, token_loss
from rlhf.logprobs import token_logprobs
from rlhf.models import Policy
from rlhf.records import Demonstration

Example = tuple[list[int], list[int]]
"""Token ids of a prompt and of its response, EOS included."""


def encode_demonstrations(
    policy: Policy, demonstrations: Sequence[Demonstration], max_prompt_tokens: int, max_response_tokens: int
) -> list[Example]:
    """(prompt ids, response ids with EOS) of each demonstration.

    Raises:
        ValueError: there is none, or a prompt is longer than allowed.
    """
    if not demonstrations:
        raise ValueError("found no demonstration; SFT needs at least one in each of train and dev")
    examples = []
    for row in demonstrations:
        prompt = policy.encode_prompt(row.prompt)
        length = len(prompt) - len(policy.soft_ids)  # learnt tokens are not the user's
        if length > max_prompt_tokens:
            raise ValueError(
                f"demonstration {row.id}: the prompt has {length} tokens, above model.max_prompt_tokens "
                f"{max_prompt_tokens}; raise it or drop the row"
            )
        examples.append((prompt, policy.encode_response(row.response, max_response_tokens)))
    return examples


@torch.no_grad()
def evaluate_loss(policy: Policy, examples: Sequence[Example], batch_size: int = 64) -> float:
    """Mean cross-entropy of the response tokens, in nats per token; perplexity is its exponential."""
    policy.model.eval()
    batches = [examples[start : start + batch_size] for start in range(0, len(examples), batch_size)]
    parts = [response_nll(policy, batch) for batch in batches]
    return sum(part.total.item() for part in parts) / sum(part.tokens for part in parts)


def perplexity(loss: float) -> float:
    """exp of a cross-entropy in nats per token."""
    return math.exp(loss)


class ResponseNll(NamedTuple):
    """How unlikely some responses are.

    Attributes:
        total: the summed negative log-likelihood, nats; gradients flow through it.
        tokens: over how many response tokens, EOS included.
    """

    total: Float[Tensor, ""]
    tokens: int


def response_nll(policy: Policy, examples: Sequence[Example]) -> ResponseNll:
    """The negative log-likelihood of responses given their prompts: −Σ_i Σ_t log π(y_it | x_i, y_i,<t)."""
    prompts, responses = zip(*examples, strict=True)
    logprobs = response_logprobs(policy.model, make_batch(prompts, responses, policy.device))
    return ResponseNll(-logprobs.sum(), sum(map(len, responses)))


def learn_responses(policy: Policy, examples: Sequence[Example], weight: float) -> float:
    """Adds the gradient of `weight` times the responses' negative log-likelihood; returns the latter, in nats."""
    prompts, responses = zip(*examples, strict=True)
    batch = make_batch(prompts, responses, policy.device)

    def of_tokens(logits: Tensor, tokens: Tokens) -> TokenLoss:
        logprobs = token_logprobs(logits, tokens.ids)
        return TokenLoss(-weight * logprobs.sum(), {"logprobs": logprobs})

    loss, figures = token_loss(policy.model, response_states(policy.model, batch), batch, of_tokens)
    loss.backward()
    return -float(figures["logprobs"].sum())
