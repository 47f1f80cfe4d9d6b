"""What is measured: models, work on them, and the token ids of that work; importing this costs no torch.

Texts are words of a word-level vocabulary, one token each, so that lengths are exact and a text that is decoded and
encoded again is the same tokens for everyone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

SPECIAL = ("<pad>", "<eos>", "<sep>")
PAD, EOS, SEP = range(3)

PREFIX = "must hold: "
"""Before the names of what a contender's memory must hold, in megabytes, among its figures."""

_SMALL = {"model_type": "gpt2", "n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 512}
_QUIET = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


@dataclass(frozen=True)
class Shape:
    """A model: fields of its transformers configuration, and its vocabulary."""

    config: dict[str, Any]
    vocab_size: int

    @property
    def context(self) -> int:
        """How many tokens it reads at most."""
        return int(self.config.get("n_positions") or self.config["max_position_embeddings"])


SHAPES = {
    "tiny": Shape({**_SMALL, **_QUIET, "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 64}, 64),
    "small": Shape({**_SMALL, **_QUIET}, 2_048),
    "small-50k": Shape({**_SMALL, **_QUIET}, 50_257),
    **{f"width-{width}": Shape({**_SMALL, **_QUIET, "n_embd": width}, 2_048) for width in (128, 256, 384, 512)},
    "gpt2-124m": Shape(
        {**_QUIET, "model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1_024}, 50_257
    ),
    "tiny-llama": Shape(
        {
            **{"model_type": "llama", "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 32},
            **{"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64},
            "tie_word_embeddings": True,
        },
        64,
    ),
    "llama-1b": Shape(
        {
            **{"model_type": "llama", "num_hidden_layers": 16, "hidden_size": 2_048, "intermediate_size": 8_192},
            **{"num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 2_048},
            "tie_word_embeddings": True,
        },
        128_256,
    ),
}


@dataclass(frozen=True)
class Work:
    """One repetition of something: on which model, how much.

    Attributes:
        shape: a name in `SHAPES`.
        rows: prompts of a PPO iteration or a sampling batch, demonstrations of an SFT step, rankings of a reward step.
        new_tokens: the most that are sampled.
        stop: the probability that a sampled token is EOS; None leaves the weights as they were drawn.
        completions: of each ranking.
        epochs, minibatches: of a PPO update.
        top_k, top_p: of sampling.
        longest_prompt, longest_response: in tokens; the shortest have 8.
    """

    shape: str = "small"
    rows: int = 64
    new_tokens: int = 32
    stop: float | None = None
    completions: int = 2
    epochs: int = 4
    minibatches: int = 4
    top_k: int = 0
    top_p: float = 1.0
    longest_prompt: int = 40
    longest_response: int = 160


class Example(NamedTuple):
    """Token ids of a prompt, which ends with the separator, and of a response, which ends with EOS."""

    prompt: list[int]
    response: list[int]


def lengths(count: int, longest: int, power: float, draw: random.Random, shortest: int = 8) -> list[int]:
    """Ragged lengths, shuffled: the quantiles of shortest + (longest − shortest)·u^power for uniform u."""
    spread = longest - shortest
    found = [shortest + round(spread * ((row + 0.5) / count) ** power) for row in range(count)]
    draw.shuffle(found)
    return found


def prompts(work: Work) -> list[list[int]]:
    """The prompts of some work, of lengths spread evenly from 8."""
    draw = random.Random(0)
    vocabulary = SHAPES[work.shape].vocab_size
    sizes = lengths(work.rows, work.longest_prompt, 1.0, draw)
    return [[*_words(size - 1, vocabulary, draw), SEP] for size in sizes]


def demonstrations(work: Work) -> list[Example]:
    """One response per prompt; most are short, and a few as long as may be."""
    return [Example(prompt, responses[0]) for prompt, responses in rankings(work, 1)]


def rankings(work: Work, completions: int | None = None) -> list[tuple[list[int], list[list[int]]]]:
    """Each prompt with its completions, best first."""
    count, draw = completions or work.completions, random.Random(1)
    vocabulary = SHAPES[work.shape].vocab_size
    sizes = iter(lengths(work.rows * count, work.longest_response, 2.5, draw))
    return [
        (prompt, [[*_words(next(sizes) - 1, vocabulary, draw), EOS] for _ in range(count)]) for prompt in prompts(work)
    ]


def pairs(work: Work) -> Iterator[tuple[Example, Example]]:
    """(chosen, rejected) of every two completions of each ranking."""
    for prompt, completions in rankings(work):
        for chosen, rejected in combinations(completions, 2):
            yield Example(prompt, chosen), Example(prompt, rejected)


def text(tokens: list[int]) -> str:
    """Tokens as the text that they are of; special ones are left out."""
    return " ".join(f"w{token}" for token in tokens if token >= len(SPECIAL))


def _words(count: int, vocabulary: int, draw: random.Random) -> list[int]:
    return [draw.randrange(len(SPECIAL), vocabulary) for _ in range(count)]
