"""Where a response ends: what the chat template, the tokenizer and the generation config say together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from rlhf.tokenizers import control_tokens, id_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER = "an answer"


class Endings(NamedTuple):
    """The tokens that end a response.

    Attributes:
        eos_id: what training closes a response with.
        stop_ids: all that sampling stops at, `eos_id` among them, in ascending order.
    """

    eos_id: int
    stop_ids: tuple[int, ...]


def combine_endings(template: int | None, tokenizer: int | None, configured: Iterable[int]) -> Endings:
    """Sampling stops at all that anybody names; training writes what the template does, else the tokenizer's EOS.

    Args:
        template: what the chat template writes behind an answer; None without a template, or where it writes none.
        tokenizer: its EOS; None where it has none.
        configured: the EOS tokens of the generation config.

    Raises:
        ValueError: nobody names one.
    """
    named = [token for token in (template, tokenizer, *configured) if token is not None]
    if not named:
        raise ValueError("neither the tokenizer, nor a chat template, nor the generation config names an end token")
    return Endings(named[0], tuple(sorted(set(named))))


def endings_of(tokenizer: PreTrainedTokenizerBase, configured: int | Iterable[int] | None) -> Endings:
    """The endings of a model with this tokenizer, whose generation config names these.

    An id that the tokenizer has as text ends nothing: a configuration may keep its class's default.
    """
    ids = [configured] if isinstance(configured, int) else [] if configured is None else configured
    return _endings_of(tokenizer, len(tokenizer), str(tokenizer.chat_template or ""), tuple(ids))


@lru_cache(maxsize=8)
def _endings_of(tokenizer: PreTrainedTokenizerBase, size: int, template: str, configured: tuple[int, ...]) -> Endings:
    known = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return combine_endings(
        end_of_turn(tokenizer), tokenizer.eos_token_id, [token for token in configured if token in known]
    )


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The control token that the chat template writes behind an answer, white space aside.

    Returns:
        Its id; None where there is no template, or text follows.
    """
    if not tokenizer.chat_template:
        return None
    from jinja2 import TemplateError

    turns = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": ANSWER}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    # What a template does with values that it does not expect is up to it.
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError):
        return None
    _, answered, behind = text.rpartition(ANSWER)
    end = re.match(rf"\s*{control_tokens(tokenizer).anywhere.pattern}", behind) if answered else None
    return None if end is None else id_of(tokenizer, end[1])
