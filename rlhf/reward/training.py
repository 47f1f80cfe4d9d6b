"""Training a reward model on pairs; the pairs of one ranking share their completions' forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.optim import Optimizer, shuffled_batches
from rlhf.records import Message, Pair, prompt_key
from rlhf.reward.encoder import EncoderReward
from rlhf.reward.losses import centring_loss, pairwise_loss
from rlhf.reward.scalar import ScalarReward
from rlhf.settings import RewardSettings


class Comparisons(NamedTuple):
    """One prompt's completions, each once, and the comparisons among them.

    Attributes:
        prompt: the prompt.
        completions: distinct texts.
        chosen: for each comparison, the place of the preferred completion.
        rejected: and of the other one.
        pairs: the pairs that these comparisons are.
    """

    prompt: str | Sequence[Message]
    completions: list[str]
    chosen: list[int]
    rejected: list[int]
    pairs: list[Pair]


def group_pairs(pairs: Sequence[Pair]) -> list[Comparisons]:
    """Gathers the pairs of each ranking (extra field `ranking`), so that a completion is read once.

    A pair that names no ranking is a group of its own.
    """
    groups: dict[object, Comparisons] = {}
    for row, pair in enumerate(pairs):
        ranking = (pair.model_extra or {}).get("ranking", row)
        key = (ranking, prompt_key(pair.prompt))  # two files may number their rankings alike
        group = groups.setdefault(key, Comparisons(pair.prompt, [], [], [], []))
        group.pairs.append(pair)
        for text, places in ((pair.chosen, group.chosen), (pair.rejected, group.rejected)):
            if text not in group.completions:
                group.completions.append(text)
            places.append(group.completions.index(text))
    return list(groups.values())


def train_reward(
    network: ScalarReward | EncoderReward,
    train: Sequence[Comparisons],
    dev: Sequence[Comparisons],
    settings: RewardSettings,
) -> Iterator[dict[str, float]]:
    """Trains the network in place, yielding the figures of each step.

    Raises:
        ValueError: there is no pair to learn from.
    """
    if not train:
        raise ValueError("found no pair to train on; are all rankings ties? see data/metrics/pairs.json")
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = Optimizer(network, settings)
    network.train()
    for step, rows in enumerate(shuffled_batches(len(train), settings.batch_size, settings.steps, generator), 1):
        chosen, rejected = score_pairs(network, [train[row] for row in rows])
        loss = pairwise_loss(chosen, rejected)
        (loss + settings.centring * centring_loss(chosen, rejected)).backward()
        figures = {
            "loss": loss.item(),
            "grad_norm": optimizer.step(),
            "learning_rate": optimizer.learning_rate,
        }
        figures["accuracy"] = float((chosen > rejected).float().mean())
        if dev and (step % settings.eval_every == 0 or step == settings.steps):
            chosen, rejected = score_all(network, dev)
            figures["eval_loss"] = float(pairwise_loss(chosen, rejected))
            figures["eval_accuracy"] = float((chosen > rejected).float().mean())
            network.train()
        yield figures
    network.eval()


def score_pairs(
    network: ScalarReward | EncoderReward, groups: Sequence[Comparisons]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Raw scores of the chosen and the rejected side of every comparison, from one forward."""
    prompts = [group.prompt for group in groups for _ in group.completions]
    scores = network(network.encode(prompts, [text for group in groups for text in group.completions]))
    chosen, rejected, offset = [], [], 0
    for group in groups:
        chosen += [offset + place for place in group.chosen]
        rejected += [offset + place for place in group.rejected]
        offset += len(group.completions)
    return scores[chosen], scores[rejected]


@torch.no_grad()
def score_all(
    network: ScalarReward | EncoderReward, groups: Sequence[Comparisons], batch_size: int = 16
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """`score_pairs` over many groups, in evaluation mode and without gradients."""
    network.eval()
    parts = [score_pairs(network, groups[start : start + batch_size]) for start in range(0, len(groups), batch_size)]
    return torch.cat([part[0] for part in parts]).cpu(), torch.cat([part[1] for part in parts]).cpu()
