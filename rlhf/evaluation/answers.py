"""What a model answers to the test prompts: its likeliest answers, samples, and its KL to the reference."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rlhf.batches import make_batch
from rlhf.generation import generate, sample
from rlhf.heads import response_logprobs
from rlhf.models import Policy
from rlhf.records import PromptText, Sampling


def greedy_answers(policy: Policy, prompts: Sequence[PromptText], max_new_tokens: int, batch_size: int) -> list[str]:
    """The likeliest answer to each prompt, token by token."""
    settings = Sampling(temperature=0.0, max_new_tokens=max_new_tokens)
    drawn = generate(policy, prompts, [settings] * len(prompts), [0] * len(prompts), batch_size)
    return [completion.text for completion in drawn]


def sampled_answers(
    policy: Policy,
    prompts: Sequence[PromptText],
    samples: int,
    max_new_tokens: int,
    seed: int,
    batch_size: int,
) -> list[list[str]]:
    """`samples` answers to each prompt at temperature 1; two models given one seed draw alike."""
    settings = Sampling(max_new_tokens=max_new_tokens)
    repeated = [prompt for prompt in prompts for _ in range(samples)]
    seeds = [seed + row for row in range(len(repeated))]
    texts = [row.text for row in generate(policy, repeated, [settings] * len(repeated), seeds, batch_size)]
    return [texts[start : start + samples] for start in range(0, len(texts), samples)]


@torch.no_grad()
def sequence_kl(
    policy: Policy,
    reference: Policy,
    prompts: Sequence[PromptText],
    max_new_tokens: int,
    seed: int,
    batch_size: int,
) -> float:
    """KL(π ‖ π_ref) in nats per sequence: the mean of Σ_t logπ − logπ_ref over one sample of π per prompt."""
    encoded = policy.encode_prompts(prompts)
    total = 0.0
    for start in range(0, len(encoded), batch_size):
        part = encoded[start : start + batch_size]
        settings = [Sampling(max_new_tokens=max_new_tokens)] * len(part)
        drawn = sample(policy, part, settings, [seed + start + row for row in range(len(part))])
        responses = drawn.responses()
        batch = make_batch(part, responses, policy.device)
        log_ratio = response_logprobs(policy.model, batch) - response_logprobs(reference.model, batch)
        total += float(log_ratio.sum())
    return total / len(encoded)
