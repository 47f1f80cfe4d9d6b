"""Supervised fine-tuning: cross-entropy of the response given the prompt, and nothing of the prompt."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from rlhf.batches import make_batch, response_logprobs
from rlhf.models import Policy
from rlhf.optim import Optimizer, shuffled_batches
from rlhf.records import Demonstration
from rlhf.settings import SftSettings

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
        if len(prompt) > max_prompt_tokens:
            raise ValueError(
                f"demonstration {row.id}: the prompt has {len(prompt)} tokens, above model.max_prompt_tokens "
                f"{max_prompt_tokens}; raise it or drop the row"
            )
        examples.append((prompt, policy.encode_response(row.response, max_response_tokens)))
    return examples


def train_sft(
    policy: Policy, train: Sequence[Example], dev: Sequence[Example], settings: SftSettings
) -> Iterator[dict[str, float]]:
    """Fine-tunes the policy in place, yielding the figures of each step; `eval_loss` is nats per token.

    The loss is summed over response tokens and divided by their number in the whole optimizer step, so that
    micro-batches change nothing but memory.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)  # dropout draws from the global stream, whatever was drawn from it before
    optimizer = Optimizer(policy.model, settings)
    micro = settings.micro_batch_size or settings.batch_size
    policy.model.train()
    for step, rows in enumerate(shuffled_batches(len(train), settings.batch_size, settings.steps, generator), 1):
        total = sum(len(train[row][1]) for row in rows)
        loss_sum = 0.0
        for start in range(0, len(rows), micro):
            loss = -_summed_logprobs(policy, [train[row] for row in rows[start : start + micro]]) / total
            loss.backward()
            loss_sum += loss.item()
        figures = {"loss": loss_sum, "grad_norm": optimizer.step(), "learning_rate": optimizer.learning_rate}
        if step % settings.eval_every == 0 or step == settings.steps:
            figures["eval_loss"] = evaluate_loss(policy, dev)
            policy.model.train()
        yield figures
    policy.model.eval()


@torch.no_grad()
def evaluate_loss(policy: Policy, examples: Sequence[Example], batch_size: int = 64) -> float:
    """Mean cross-entropy of the response tokens, in nats per token; perplexity is its exponential."""
    policy.model.eval()
    batches = [examples[start : start + batch_size] for start in range(0, len(examples), batch_size)]
    total = sum(_summed_logprobs(policy, batch).item() for batch in batches)
    return -total / sum(len(response) for _, response in examples)


def perplexity(loss: float) -> float:
    """exp of a cross-entropy in nats per token."""
    return math.exp(loss)


def _summed_logprobs(policy: Policy, examples: Sequence[Example]) -> torch.Tensor:
    prompts, responses = zip(*examples, strict=True)
    return response_logprobs(policy.model, make_batch(prompts, responses, policy.device)).sum()
