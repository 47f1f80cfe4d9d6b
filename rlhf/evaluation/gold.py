"""How well a reward model agrees with gold, where the builtin corpus has gold."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from rlhf.annotator import swap_value
from rlhf.records import Prompt
from rlhf.reward import RewardModel, metrics


def agreement(scores: Sequence[Sequence[float]], gold: Sequence[Sequence[float]]) -> dict[str, float]:
    """Accuracy and AUC of scores on every pair of a prompt's completions that gold tells apart.

    Args:
        scores: [N, S] the reward model's.
        gold: [N, S] gold's.
    """
    chosen, rejected = [], []
    for row, truth in zip(scores, gold, strict=True):
        for better in range(len(row)):
            for worse in range(len(row)):
                if truth[better] > truth[worse]:
                    chosen.append(row[better])
                    rejected.append(row[worse])
    sides = np.array(chosen), np.array(rejected)
    return {"gold_accuracy": metrics.accuracy(*sides), "gold_auc": metrics.auc(*sides)}


def probe_accuracy(reward_model: RewardModel, prompts: Sequence[Prompt], seed: int) -> float:
    """The share of references that outscore themselves with one value swapped."""
    generator = random.Random(seed)
    texts, references, swapped = [], [], []
    for row in prompts:
        for reference in row.references:
            changed = swap_value(str(row.prompt), reference, generator)
            if changed is not None:
                texts.append(row.prompt)
                references.append(reference)
                swapped.append(changed)
    better = reward_model.score(texts, references).numpy()
    return metrics.accuracy(better, reward_model.score(texts, swapped).numpy())
