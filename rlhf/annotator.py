"""The gold judge of the builtin corpus, and the simulated annotator that takes people's place.

Gold is shown to nobody but `evaluate`: the reward model learns from the annotator's noisy rankings alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from rlhf.corpus import VALUES, delexicalise, find_values, fluent_bigrams, read_prompt
from rlhf.records import Message, PromptText

if TYPE_CHECKING:
    from torch import Tensor

MAX_WORDS = 30


def has_gold(prompts: Sequence[PromptText]) -> bool:
    """Whether every prompt is of the builtin corpus, so that each completion has a gold score."""
    try:
        return all(isinstance(prompt, str) and read_prompt(prompt) for prompt in prompts)
    except ValueError:
        return False


def gold_score(prompt: str, completion: str) -> float:
    """How well a completion states the prompt's facts; 1 is perfect, below 0 is worse than silence.

    (covered − foreign − ½·repeats − words over 30 − disfluent bigrams − [unfinished]) / facts

    Args:
        prompt: a prompt of the builtin corpus.
        completion: any text; it is finished when it ends in a full stop.

    Raises:
        ValueError: the prompt is not of the builtin corpus.
    """
    facts = {attribute: value.lower() for attribute, value in read_prompt(prompt).items()}
    stated = [(attribute, value.lower()) for attribute, value in find_values(completion)]
    covered = sum((attribute, value) in stated for attribute, value in facts.items())
    foreign = sum(facts.get(attribute) != value for attribute, value in set(stated))
    repeats = len(stated) - len(set(stated))
    too_long = max(0, len(completion.split()) - MAX_WORDS)
    bigrams = pairwise(["<s>", *delexicalise(completion)])
    disfluent = sum(bigram not in fluent_bigrams() for bigram in bigrams)
    unfinished = not completion.rstrip().endswith(".")
    return (covered - foreign - 0.5 * repeats - too_long - disfluent - unfinished) / len(facts)


def rank_completions(prompt: str, completions: Sequence[str], noise: float, generator: random.Random) -> list[int]:
    """Ranks completions by gold plus Gaussian noise, as one person would; the same text ties with itself.

    Args:
        prompt: a prompt of the builtin corpus.
        completions: K texts.
        noise: standard deviation of the noise, in units of the gold score.
        generator: where the noise comes from.

    Returns:
        K ranks; 1 is best, ties share the lowest number.
    """
    noisy: dict[str, float] = {}
    for completion in completions:
        if completion not in noisy:
            noisy[completion] = gold_score(prompt, completion) + generator.gauss(0.0, noise)
    scores = [noisy[completion] for completion in completions]
    return [1 + sum(other > score for other in scores) for score in scores]


@dataclass(frozen=True)
class Annotator:
    """The simulated annotator as a scorer of single completions, in place of people.

    Attributes:
        seed: another seed is another person.
        noise: standard deviation of the noise, in units of the gold score.
    """

    seed: int
    noise: float = 0.12

    def score(
        self, prompts: Sequence[str | Sequence[Message]], completions: Sequence[str], batch_size: int = 64
    ) -> Tensor:
        """Gold plus Gaussian noise for each completion; the same completion always gets the same score.

        Raises:
            ValueError: a prompt is not of the builtin corpus.
        """
        import torch

        return torch.tensor([self._rate(str(prompt), text) for prompt, text in zip(prompts, completions, strict=True)])

    def _rate(self, prompt: str, completion: str) -> float:
        draw = random.Random(f"{self.seed}\n{prompt}\n{completion}")
        return gold_score(prompt, completion) + draw.gauss(0.0, self.noise)


def swap_value(prompt: str, reference: str, generator: random.Random) -> str | None:
    """A reference with one stated value replaced by another of its attribute; None where nothing is stated.

    A reward model that knows the facts prefers the reference: the probe for wrong values.
    """
    stated = [(attribute, value) for attribute, value in find_values(reference)]
    if not stated:
        return None
    attribute, value = generator.choice(stated)
    others = [other for other in VALUES[attribute] if other.lower() != value.lower()]
    return reference.replace(value, generator.choice(others), 1)
