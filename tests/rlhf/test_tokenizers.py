"""Prompts as token ids: all that a prompt holds reaches the model, or is refused with the reason."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rlhf.records import Message
from rlhf.tokenizers import encode_prompt

STRICT = """{% for m in messages %}\
{% if m.role == "system" %}{{ raise_exception("System role not supported") }}{% endif %}\
{% if loop.index0 % 2 != (m.role == "assistant") | int %}{{ raise_exception("Roles must alternate") }}{% endif %}\
[{{ m.role }}]{{ m.content | trim }}{% for call in m.tool_calls %}[call {{ call.function.name }}]{% endfor %};\
{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"""
"""As strict as some models' own: no system turn, and user and assistant in turns."""


def strict(tokenizer: Any, template: str = STRICT) -> Any:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def turn(role: str, content: str | None, **fields: object) -> Message:
    return Message.model_validate({"role": role, "content": content, **fields})


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([turn("system", "s"), turn("user", "u")], "the chat template refuses it (System role not supported)"),
        ([turn("user", "u"), turn("user", "v")], "the chat template refuses it (Roles must alternate)"),
        ([], "the chat template refuses it ("),
    ],
)
def test_a_template_that_refuses_a_prompt_gives_its_reason(bpe: Any, turns: list[Message], reason: str) -> None:
    """Whatever it raises is a ValueError of one line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        encode_prompt(strict(bpe), turns)
    assert str(caught.value).startswith(reason)


def test_tool_calls_reach_the_template_or_are_refused(bpe: Any) -> None:
    """With a content or null in its place; a template that passes them over, and no template, say so."""
    call = {"id": "1", "function": {"name": "weather", "arguments": {"where": None}}}
    asked = [turn("user", "hot?"), turn("assistant", None, tool_calls=[call], name=None)]
    written = bpe.decode(encode_prompt(strict(bpe), asked))
    assert written.strip() == "[user]hot?;[assistant][call weather];[bot]"
    deaf = "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}"
    with pytest.raises(ValueError, match="the chat template shows nothing of tool_calls; remove them, or take"):
        encode_prompt(strict(bpe, deaf), asked)
    with pytest.raises(ValueError, match="the model has no chat template, so that it cannot be shown tool_calls"):
        encode_prompt(bpe, asked)
    with pytest.raises(ValueError, match="content"):
        turn("assistant", None, tool_calls=[])


def test_every_field_of_a_turn_reaches_the_template_and_null_is_none(bpe: Any) -> None:
    """`name` is what it says; where a table left a gap, the template sees no field."""
    named = "{% for m in messages %}{{ m.name if m.name is defined else 'nobody' }}: {{ m.content }}{% endfor %}"
    tokenizer = strict(bpe, named)
    assert bpe.decode(encode_prompt(tokenizer, [turn("user", "hi", name="Ann")])).strip() == "Ann: hi"
    assert bpe.decode(encode_prompt(tokenizer, [turn("user", "hi", name=None)])).strip() == "nobody: hi"
