"""Supervised fine-tuning: cross-entropy of the response given the prompt, and nothing of the prompt.

Learning one task wears others away. Replay holds against it: a share of each batch is demonstrations of other tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from rlhf.demonstrations import Example, evaluate_loss, learn_responses
from rlhf.finite import BadBatches, NotFiniteError
from rlhf.memory import MicroBatches
from rlhf.models import Policy
from rlhf.optim import Optimizer, shuffled_batches
from rlhf.settings.sft import SftSettings


def train_sft(
    policy: Policy,
    train: Sequence[Example],
    dev: Sequence[Example],
    settings: SftSettings,
    general: Sequence[Example] = (),
    bad: BadBatches | None = None,
    tell: Callable[[str], None] | None = None,
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
        bad: counts the batches that are skipped; None counts here.
        tell: hears that memory ran out, and that micro-batches are smaller from then on.

    Raises:
        ValueError: there are more of those than `max_bad_batches`, or memory has no room for one row.
    """
    bad = bad or BadBatches("sft", settings.max_bad_batches)
    torch.manual_seed(settings.seed)  # dropout draws from the global stream, whatever was drawn from it before
    optimizer = Optimizer(policy.model, settings)
    micro = MicroBatches("sft", settings.micro_batch_size, tell)
    policy.model.train()
    for step, batch in enumerate(draw_batches(train, general, settings), 1):
        try:
            figures = optimizer.step(micro.attempt(len(batch), partial(learn_batch, policy, batch), optimizer.clear))
        except NotFiniteError as error:
            bad.skip(error, step=step, examples=[policy.describe(*example) for example in batch])
            figures = {"learning_rate": optimizer.learning_rate}
        if step % settings.eval_every == 0 or step == settings.steps:
            figures["eval_loss"] = evaluate_loss(policy, dev)
            policy.model.train()
        yield figures
    policy.model.eval()


def learn_batch(policy: Policy, batch: Sequence[Example], size: int) -> float:
    """Adds the gradient of a step's mean loss, `size` examples at once; returns the loss, nats per response token."""
    total = sum(len(response) for _, response in batch)
    parts = (batch[start : start + size] for start in range(0, len(batch), size))
    return sum(learn_responses(policy, part, 1 / total) / total for part in parts)


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
