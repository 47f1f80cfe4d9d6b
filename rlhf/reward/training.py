"""Training a reward model on pairs; the pairs of one ranking share their completions' forward.

Dimensions: N pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.finite import BadBatches, NotFiniteError
from rlhf.memory import MicroBatches
from rlhf.optim import Optimizer, shuffled_batches
from rlhf.records import Message, Pair, prompt_identity
from rlhf.reward.encoder import EncoderReward
from rlhf.reward.losses import centring_loss, pairwise_loss, regression_loss
from rlhf.reward.scalar import ScalarReward
from rlhf.settings.reward import RewardSettings

Loss = Callable[[Tensor, Tensor, Sequence["Comparisons"]], Tensor]
"""Of chosen and rejected scores [N], and the groups that they are of: a mean over the pairs."""


class Comparisons(NamedTuple):
    """One prompt's completions, each once, and the comparisons among them.

    Attributes:
        prompt: the prompt.
        completions: distinct texts.
        chosen: for each comparison, the index of the preferred completion.
        rejected: and of the other one.
        pairs: the pairs that these comparisons are.
    """

    prompt: str | Sequence[Message]
    completions: list[str]
    chosen: list[int]
    rejected: list[int]
    pairs: list[Pair]


def group_pairs(pairs: Sequence[Pair]) -> list[Comparisons]:
    """Groups the pairs of each ranking (extra field `ranking`), so that a completion is read once.

    A pair that names no ranking is a group of its own.
    """
    groups: dict[object, Comparisons] = {}
    for row, pair in enumerate(pairs):
        ranking = (pair.model_extra or {}).get("ranking", row)
        key = (ranking, prompt_identity(pair.prompt))  # two files may number their rankings alike
        group = groups.setdefault(key, Comparisons(pair.prompt, [], [], [], []))
        group.pairs.append(pair)
        for text, indices in ((pair.chosen, group.chosen), (pair.rejected, group.rejected)):
            if text not in group.completions:
                group.completions.append(text)
            indices.append(group.completions.index(text))
    return list(groups.values())


def distinct_pairs(network: ScalarReward | EncoderReward, pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose two completions the network reads as two: others, the same once they are cut, teach nothing."""
    prompts = [pair.prompt for pair in pairs]
    chosen = network.reads(prompts, [pair.chosen for pair in pairs])
    rejected = network.reads(prompts, [pair.rejected for pair in pairs])
    return [pair for pair, first, second in zip(pairs, chosen, rejected, strict=True) if first != second]


def train_reward(
    network: ScalarReward | EncoderReward,
    train: Sequence[Comparisons],
    dev: Sequence[Comparisons],
    settings: RewardSettings,
    bad: BadBatches | None = None,
    tell: Callable[[str], None] | None = None,
) -> Iterator[dict[str, float]]:
    """Trains the network in place, yielding the figures of each step.

    Args:
        network: to be trained.
        train: the pairs to learn from.
        dev: those that are only measured on.
        settings: how long, how fast, and by which loss.
        bad: counts the batches that are skipped; None counts here.
        tell: hears that memory ran out, and that micro-batches are smaller from then on.

    Raises:
        ValueError: there is no pair to learn from, a pair lacks the ratings that the loss asks for, more batches are
            skipped than `max_bad_batches`, or memory has no room for one ranking.
    """
    bad = bad or BadBatches("reward", settings.max_bad_batches)
    check_pairs([pair for group in train for pair in group.pairs], settings)
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer, loss_of = Optimizer(network, settings), make_loss(train, settings)
    micro = MicroBatches("reward", settings.micro_batch_size, tell)
    network.train()
    for step, rows in enumerate(shuffled_batches(len(train), settings.batch_size, settings.steps, generator), 1):
        groups = [train[row] for row in rows]
        learn = partial(learn_groups, network, groups, loss_of, settings.centring)
        try:
            loss, accuracy = micro.attempt(len(groups), learn, optimizer.clear)
            figures = {**optimizer.step(loss), "accuracy": accuracy}
        except NotFiniteError as error:
            pairs = [pair.model_dump(mode="json") for group in groups for pair in group.pairs]
            bad.skip(error, step=step, pairs=pairs)
            figures = {"learning_rate": optimizer.learning_rate}
        if dev and (step % settings.eval_every == 0 or step == settings.steps):
            chosen, rejected = score_all(network, dev)
            figures["eval_loss"] = float(loss_of(chosen, rejected, dev))
            figures["eval_accuracy"] = float((chosen > rejected).float().mean())
            network.train()
        yield figures
    network.eval()


def learn_groups(
    network: ScalarReward | EncoderReward, groups: Sequence[Comparisons], loss_of: Loss, centring: float, size: int
) -> tuple[float, float]:
    """Adds the gradient of the mean loss over a step's pairs, `size` rankings at once; returns loss and accuracy."""
    pairs, total = sum(len(group.pairs) for group in groups), 0.0
    right: list[Tensor] = []
    for start in range(0, len(groups), size):
        part = groups[start : start + size]
        chosen, rejected = score_pairs(network, part)
        share = len(chosen) / pairs
        loss = loss_of(chosen, rejected, part)
        (share * (loss + centring * centring_loss(chosen, rejected))).backward()
        total += share * loss.item()
        right.append(chosen > rejected)
    return total, float(torch.cat(right).float().mean())


def check_pairs(pairs: Sequence[Pair], settings: RewardSettings) -> None:
    """Raises ValueError where there is no pair to learn from, or one lacks the ratings that the loss asks for."""
    if not pairs:
        raise ValueError("found no pair to train on; are all rankings ties? see data/metrics/pairs.json")
    unrated = sum(not isinstance(rating, int | float) for pair in pairs for rating in ratings_of(pair)) // 2
    if settings.loss == "regression" and unrated:
        raise ValueError(
            f"reward.loss is regression, but {unrated} of {len(pairs)} pairs have no ratings; give every ranking a "
            "field ratings (one number per completion, higher is better), or set reward.loss to pairwise"
        )


def make_loss(train: Sequence[Comparisons], settings: RewardSettings) -> Loss:
    """The loss that settings ask for, of chosen and rejected scores [N] and the groups that they are of.

    Regression counts a completion once for each pair that it is in, and takes ratings in units of the train
    pairs': less their mean, over their deviation.

    Raises:
        ValueError: regression is asked for, and all ratings are the same.
    """

    def pairwise(chosen: Tensor, rejected: Tensor, groups: Sequence[Comparisons]) -> Tensor:
        margins = [1.0 if pair.margin is None else pair.margin for group in groups for pair in group.pairs]
        return pairwise_loss(chosen, rejected, settings.margin * chosen.new_tensor(margins), settings.label_smoothing)

    if settings.loss == "pairwise":
        return pairwise
    deviation, mean = (float(figure) for figure in torch.std_mean(gather_ratings(train), correction=0))
    if deviation == 0.0:
        raise ValueError(f"every rating is {mean:g}, which tells no completion from another; see data/rankings")

    def regression(chosen: Tensor, rejected: Tensor, groups: Sequence[Comparisons]) -> Tensor:
        ratings = (gather_ratings(groups).to(chosen.device) - mean) / deviation
        return regression_loss(torch.cat([chosen, rejected]), ratings)

    return regression


def gather_ratings(groups: Sequence[Comparisons]) -> Float[Tensor, " M"]:
    """The ratings of all chosen completions, then those of all rejected ones."""
    return torch.tensor([ratings_of(pair) for group in groups for pair in group.pairs], dtype=torch.float32).T.flatten()


def ratings_of(pair: Pair) -> tuple[object, object]:
    """The pair's own fields `chosen_rating` and `rejected_rating`."""
    extra = pair.model_extra or {}
    return extra.get("chosen_rating"), extra.get("rejected_rating")


def score_pairs(
    network: ScalarReward | EncoderReward, groups: Sequence[Comparisons]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Raw scores of the chosen and the rejected side of every comparison, from one forward."""
    prompts = [group.prompt for group in groups for _ in group.completions]
    scores = network(network.encode(prompts, [text for group in groups for text in group.completions]))
    chosen, rejected, offset = [], [], 0
    for group in groups:
        chosen += [offset + index for index in group.chosen]
        rejected += [offset + index for index in group.rejected]
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
