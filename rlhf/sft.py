"""Supervised fine-tuning: cross-entropy of the response given the prompt, and nothing of the prompt.

Learning one task wears others away. Replay holds against it: a share of each batch is demonstrations of other tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.batches import make_batch, response_states
from rlhf.heads import TokenLoss, Tokens, response_logprobs, token_loss
from rlhf.logprobs import token_logprobs
from rlhf.models import Policy
from rlhf.optim import Optimizer, shuffled_batches
from rlhf.records import Demonstration
from rlhf.settings.sft import SftSettings

Example = tuple[list[int], list[int]]


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


def train_sft(
    policy: Policy,
    train: Sequence[Example],
    dev: Sequence[Example],
    settings: SftSettings,
    general: Sequence[Example] = (),
) -> Iterator[dict[str, float]]:
    """Fine-tunes the policy in place, yielding the figures of each step; `eval_loss` is nats per token.

    The loss is summed over response tokens and divided by their number in the whole optimizer step, so that
    micro-batches change nothing but memory.

    Args:
        policy: the base model.
        train: examples of the task.
        dev: examples that `eval_loss` is measured on.
        settings: how long, how fast, and how much is replayed.
        general: examples of other tasks to replay.
    """
    torch.manual_seed(settings.seed)  # dropout draws from the global stream, whatever was drawn from it before
    optimizer = Optimizer(policy.model, settings)
    micro = settings.micro_batch_size or settings.batch_size
    policy.model.train()
    for step, batch in enumerate(draw_batches(train, general, settings), 1):
        total = sum(len(response) for _, response in batch)
        loss_sum = 0.0
        for start in range(0, len(batch), micro):
            loss_sum += learn_responses(policy, batch[start : start + micro], 1 / total) / total
        figures = {"loss": loss_sum, "grad_norm": optimizer.step(), "learning_rate": optimizer.learning_rate}
        if step % settings.eval_every == 0 or step == settings.steps:
            figures["eval_loss"] = evaluate_loss(policy, dev)
            policy.model.train()
        yield figures
    policy.model.eval()


def draw_batches(
    train: Sequence[Example], general: Sequence[Example], settings: SftSettings
) -> Iterator[list[Example]]:
    """Yields the batch of each step: examples of the task, then `settings.replay_rows` general ones.

    Each kind has a shuffled order of its own, so that replay does not change the order of the task's examples.
    """
    assert general or not settings.replay_rows
    replayed = settings.replay_rows
    shares = ((train, settings.batch_size - replayed), (general, replayed))
    orders = [
        shuffled_batches(len(rows), size, settings.steps, torch.Generator().manual_seed(settings.seed))
        for rows, size in shares
    ]
    for own, others in zip(*orders, strict=True):
        yield [train[row] for row in own] + [general[row] for row in others]


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
