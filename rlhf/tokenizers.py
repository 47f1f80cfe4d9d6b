"""Tokenizers and configurations of models: load and train, and a prompt as token ids; importing it costs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlhf.records import Demonstration, Message, prompt_text

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, EOS, SEP = "<pad>", "<eos>", "<sep>"


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message], for_encoder: bool = False
) -> list[int]:
    """A prompt as token ids, up to where the response begins.

    A chat model gets its own template with the generation prompt. Another causal model gets BOS where its tokenizer
    adds one, the text (`plain_text`) and a separator, which is `<sep>` where the tokenizer has it, else a newline; an
    encoder its tokenizer's frame.

    What reads like a control token in a prompt stays text, so that it neither ends a turn nor opens one.

    Raises:
        ValueError: the chat template refuses the prompt, or the model cannot be shown its tool calls.
    """
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(map(_fields, prompt))
        return _encode_turns(tokenizer, turns)
    text = plain_text(prompt)
    if for_encoder:
        return list(tokenizer.encode(text, split_special_tokens=True))
    # get_vocab would copy a large tokenizer's vocabulary for every prompt.
    if tokenizer.convert_tokens_to_ids(SEP) in (None, tokenizer.unk_token_id):
        return bos_ids(tokenizer) + encode_text(tokenizer, text + "\n")
    return [*bos_ids(tokenizer), *encode_text(tokenizer, text), id_of(tokenizer, SEP)]


def bos_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """BOS, where the tokenizer puts one before a text; else nothing."""
    return list(_bos_ids(tokenizer, len(tokenizer)))


@lru_cache(maxsize=8)
def _bos_ids(tokenizer: PreTrainedTokenizerBase, size: int) -> tuple[int, ...]:
    first = tokenizer.encode("a")[:1]
    return tuple(first) if first == [tokenizer.bos_token_id] else ()


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """A text as token ids: what reads like a control token, such as `<eos>`, is text as well and controls nothing."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))


def id_of(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int)
    return token_id


def plain_text(prompt: str | Sequence[Message]) -> str:
    """What a model without a chat template reads; raises ValueError where a turn calls tools, which it never saw."""
    if not isinstance(prompt, str) and any(turn.calls for turn in prompt):
        raise ValueError("the model has no chat template, so that it cannot be shown tool_calls; remove them")
    return prompt_text(prompt)


class ControlTokens(NamedTuple):
    """The tokens that steer a model and are no text, as patterns."""

    anywhere: re.Pattern[str]
    """Finds each."""
    at_end: re.Pattern[str]
    """Finds one that ends a response, at the end of a text, with others behind it and the white space around them."""


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> ControlTokens:
    """The control tokens of a tokenizer, which are its special ones.

    Those that end a response are EOS, and what its chat template writes.
    """
    return _control_tokens(tokenizer, len(tokenizer), str(tokenizer.chat_template or ""))


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: PreTrainedTokenizerBase, size: int, template: str) -> ControlTokens:
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    tokens = dict.fromkeys([*tokenizer.all_special_tokens, *added])
    # A tokenizer may pad with a mark such as "!", which templates hold too.
    final = [token for token in tokens if token == tokenizer.eos_token or (len(token) > 2 and token in template)]
    return make_control_tokens(tokens, final)


def make_control_tokens(tokens: Iterable[str], final: Iterable[str]) -> ControlTokens:
    """The patterns of these tokens, of which `final` end a response."""

    def any_of(tokens: Iterable[str]) -> str:
        return "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or "(?!)"

    anywhere, end = f"(?:{any_of(tokens)})", rf"(?:{any_of(final)})"
    at_end = rf"(?<!\s)\s*{end}(?:\s*{anywhere})*\s*\Z"  # from where a run of spaces begins, or n² steps
    return ControlTokens(re.compile(f"({anywhere})"), re.compile(at_end))


OWN_CONTROLS = make_control_tokens((PAD, EOS, SEP), (EOS,))
"""Those of a tokenizer that `train_tokenizer` makes."""


def _encode_turns(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]]) -> list[int]:
    """Turns as the chat template writes them; control tokens are those that the template writes, not the turns'."""
    controls = control_tokens(tokenizer).anywhere
    used = "".join(_texts(turns))
    if not (hidden := dict.fromkeys(controls.findall(used))):
        return list(tokenizer.encode(_render(tokenizer, turns), add_special_tokens=False))
    # The template sees a character of private use in place of each, which it can only copy.
    free = (character for character in map(chr, range(0xF0000, 0xFFFFE)) if character not in used)
    marks = dict(zip(hidden, free, strict=False))
    text = _render(tokenizer, _replaced(turns, controls, marks))
    tokens: list[int] = []
    for part in filter(None, controls.split(text)):
        if controls.fullmatch(part):
            tokens.append(id_of(tokenizer, part))
        else:
            tokens += encode_text(tokenizer, part.translate({ord(mark): token for token, mark in marks.items()}))
    return tokens


def _texts(value: Any) -> Iterator[str]:
    """All texts in a turn, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _replaced(value: Any, controls: re.Pattern[str], marks: dict[str, str]) -> Any:
    """The value with a mark in place of each control token in its texts."""
    if isinstance(value, str):
        return controls.sub(lambda match: marks[match.group()], value)
    if isinstance(value, dict):
        return {name: _replaced(part, controls, marks) for name, part in value.items()}
    return [_replaced(part, controls, marks) for part in value] if isinstance(value, list) else value


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, Any]]) -> str:
    """The turns as the chat template writes them, all that they hold; raises ValueError with the template's reason."""
    from jinja2 import TemplateError

    def write(turns: list[dict[str, Any]]) -> str:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    try:
        text = write(turns)
        lost = any("tool_calls" in turn for turn in turns) and text == write(
            [{name: value for name, value in turn.items() if name != "tool_calls"} for turn in turns]
        )
    # What a template does with values that it does not expect is up to it.
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise ValueError(f"the chat template refuses it ({error})") from error
    if lost:
        raise ValueError("the chat template shows nothing of tool_calls; remove them, or take a model that knows tools")
    return text


def load_tokenizer(name: str | Path, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a Hub id or a local path; raises ValueError that says why it cannot be loaded."""
    from transformers import AutoTokenizer

    with explained(name):
        return AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)


def load_config(name: str | Path, trust_remote_code: bool) -> PretrainedConfig:
    """Loads the configuration of a Hub id or a local path; raises ValueError that says why it cannot be loaded."""
    from transformers import AutoConfig

    with explained(name):
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)


def corpus_of(rows: Iterable[Demonstration]) -> Iterator[str]:
    """The texts that a model from scratch has its tokenizer trained on."""
    for row in rows:
        yield prompt_text(row.prompt)
        yield row.response


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE with pad, eos and separator tokens; the same texts give the same tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, EOS, SEP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, sep_token=SEP)


@contextmanager
def explained(name: str | Path) -> Iterator[None]:
    """Turns what transformers raises when `name` cannot be loaded into a ValueError that says what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise ValueError(f"{name}: {explain_load(error)}") from error


def explain_load(error: Exception) -> str:
    """Why a model could not be loaded, in one line, with what to do."""
    reason = str(error).strip().splitlines()[0]
    if "trust_remote_code" in str(error):
        remedy = "read that code, and set model.trust_remote_code to true if you trust it"
    else:
        remedy = (
            "give a folder with config.json and safetensors, or a Hub id that this machine can reach (or has in its "
            "cache)"
        )
    return f"the model could not be loaded ({reason}); {remedy}"


def _fields(turn: Message) -> dict[str, Any]:
    """All that a turn holds; a table fills what a turn lacks with null, which templates would take for a value."""
    return {name: value for name, value in turn.model_dump().items() if value is not None}
