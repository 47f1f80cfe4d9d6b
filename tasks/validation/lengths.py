"""How long a text is: in tokens where a tokenizer is at hand, else in words and punctuation marks.

A model built from scratch has no tokenizer before SFT trains one, so validate counts words and
punctuation marks for it. That count is a lower bound on the tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf.records import Message, prompt_key

WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Lengths:
    """Counts of one unit."""

    unit: str
    """What is counted, for messages."""
    of_prompt: Callable[[str | Sequence[Message]], int]
    of_texts: Callable[[list[str]], list[int]]


def count_words(text: str) -> int:
    """Words and punctuation marks: `It's 5-star.` has 7 (It ' s 5 - star .)."""
    return sum(1 for _ in WORD.finditer(text))


def lengths_of(model_name: str | None, trust_remote_code: bool = False) -> Lengths:
    """Counts as the model called `model_name` reads texts, or words where there is no model yet.

    A prompt is counted with what the model puts around it (chat template or separator), a text with its EOS.

    Raises:
        ValueError: the model's tokenizer or its configuration cannot be loaded.
    """
    if model_name is None:
        return Lengths(
            "words and punctuation marks",
            lambda prompt: count_words(prompt_key(prompt)),
            lambda texts: [count_words(text) for text in texts],
        )
    from rlhf.tokenizers import encode_prompt, load_config, load_tokenizer

    tokenizer = load_tokenizer(model_name, trust_remote_code)
    encoder = load_config(model_name, trust_remote_code).is_encoder_decoder

    def of_texts(texts: list[str]) -> list[int]:
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        return [len(tokens) + 1 for tokens in encoded]

    return Lengths(f"tokens of {model_name}", lambda prompt: len(encode_prompt(tokenizer, prompt, encoder)), of_texts)
