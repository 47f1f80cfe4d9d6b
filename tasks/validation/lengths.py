"""How long a text is, in tokens of the model that will read it.

A model built from scratch has no tokenizer before SFT trains one. The one here is trained in the same way on the same
rows, but for those that are then quarantined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf.records import Message
from rlhf.tokenizers import OWN_CONTROLS, ControlTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Lengths:
    """Counts of one unit."""

    unit: str
    """What is counted, for messages."""
    of_prompt: Callable[[str | Sequence[Message]], int]
    of_texts: Callable[[list[str]], list[int]]
    controls: ControlTokens = OWN_CONTROLS
    """The control tokens of the model's tokenizer."""


def lengths_of(model_name: str, trust_remote_code: bool = False) -> Lengths:
    """Counts as the model called `model_name` reads texts.

    A prompt is counted with what the model puts around it (chat template or separator), a text with its EOS.

    Raises:
        ValueError: the model's tokenizer or its configuration cannot be loaded.
    """
    from rlhf.tokenizers import load_config, load_tokenizer

    tokenizer = load_tokenizer(model_name, trust_remote_code)
    encoder = load_config(model_name, trust_remote_code).is_encoder_decoder
    return _counted_by(tokenizer, encoder, f"tokens of {model_name}")


def trained_lengths(texts: Iterable[str], vocab_size: int) -> Lengths:
    """Counts as a model from scratch does whose tokenizer is trained on these texts.

    A prompt is counted with a separator, which an encoder's own framing does without.
    """
    from rlhf.tokenizers import train_tokenizer

    return _counted_by(train_tokenizer(texts, vocab_size), False, "tokens of the tokenizer that SFT trains")


def _counted_by(tokenizer: PreTrainedTokenizerBase, encoder: bool, unit: str) -> Lengths:
    from rlhf.tokenizers import control_tokens, encode_prompt

    controls = control_tokens(tokenizer)

    def of_texts(texts: list[str]) -> list[int]:
        texts = [controls.at_end.sub("", text) for text in texts]  # as training closes them: once
        encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []
        return [len(tokens) + 1 for tokens in encoded]

    return Lengths(unit, lambda prompt: len(encode_prompt(tokenizer, prompt, encoder)), of_texts, controls)
