"""The records of preference learning: one class per kind of JSONL row.

Unknown fields are kept as they are, so a team's own annotations survive every stage.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from rlhf.blank import is_blank

Text = Annotated[str, StringConstraints(strict=True)]
Name = Annotated[str, StringConstraints(strict=True, min_length=1)]


def _as_text(value: object) -> object:
    """7 and 7.0 as "7": tables and other tools number their rows and people."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _is_written(name: str) -> str:
    """Raises ValueError for a name that shows nothing."""
    if is_blank(name):
        raise ValueError("it is blank; write one, or leave the field out where it may be")
    return name


def _as_rank(value: object) -> object:
    """1.0 and "1" as 1."""
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}(\.0*)?\s*", value):
        value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


Identifier = Annotated[Name, BeforeValidator(_as_text), AfterValidator(_is_written)]
Rank = Annotated[int, BeforeValidator(_as_rank)]


class Message(BaseModel):
    """One turn of a chat prompt; what else it holds, such as `tool_calls`, reaches the chat template."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    role: Name
    content: Text

    @model_validator(mode="before")
    @classmethod
    def _calls_may_stand_alone(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("tool_calls") and values.get("content") is None:
            return {**values, "content": ""}
        return values

    @property
    def calls(self) -> list[Any]:
        """The tools that the turn calls."""
        return (self.model_extra or {}).get("tool_calls") or []

    @property
    def is_blank(self) -> bool:
        """Whether the turn says nothing and calls nothing."""
        return is_blank(self.content) and not self.calls


PromptText = Text | list[Message]


class Record(BaseModel):
    """A row: its own fields are checked strictly, all others are kept as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class Demonstration(Record):
    """What a good answer looks like: a prompt and the response to imitate."""

    id: Identifier
    prompt: PromptText
    response: Text


class Prompt(Record):
    """A question to the policy, with the reference answers there are (none is allowed)."""

    id: Identifier
    prompt: PromptText
    references: list[Text] = []


class Sampling(BaseModel):
    """How one completion is drawn. The defaults sample from the model's own distribution.

    `temperature` 0 means greedy; `num_beams` above 1 means beam search, which draws nothing.
    `top_k` 0, `top_p` 1 and `min_p` 0 switch the filters off; `repetition_penalty` 1 is none (CTRL,
    Keskar et al. 2019).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    temperature: float = Field(1.0, ge=0.0)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    min_p: float = Field(0.0, ge=0.0, lt=1.0)
    num_beams: int = Field(1, ge=1)
    repetition_penalty: float = Field(1.0, gt=0.0)
    min_new_tokens: int = Field(0, ge=0)
    max_new_tokens: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _min_fits_in_max(self) -> Self:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}, above max_new_tokens {self.max_new_tokens}; "
                "lower the first or raise the second"
            )
        return self


class Completion(Record):
    """One sampled answer; `tokens` and `logprob` (nats) count the end token when there is one."""

    text: Text
    tokens: int
    finish_reason: Literal["eos", "length"]
    seed: int
    sampling: Sampling
    logprob: float


class Rollout(Record):
    """A prompt with the K completions that were sampled for it."""

    prompt_id: Identifier
    prompt: PromptText
    completions: list[Completion]


class Ranking(Record):
    """One annotator's order of k completions: rank 1 is best, ties share the lowest rank (1, 1, 3)."""

    id: Identifier
    prompt: PromptText
    completions: Annotated[list[Text], Field(min_length=2)]
    ranks: list[Rank]
    annotator: Identifier
    source: Text = "people"

    @model_validator(mode="after")
    def _ranks_match_completions(self) -> Self:
        if len(self.ranks) != len(self.completions):
            raise ValueError(
                f"ranks has {len(self.ranks)} entries for {len(self.completions)} completions; "
                "give one rank per completion (ties may share a rank)"
            )
        expected = [1 + sum(other < rank for other in self.ranks) for rank in self.ranks]
        if self.ranks != expected:
            raise ValueError(
                f"ranks are {self.ranks}; rank 1 is best and ties share the lowest number, "
                f"so this order is written {expected}"
            )
        return self


class Pair(Record):
    """A preference between two completions of one prompt."""

    prompt: PromptText
    chosen: Text
    rejected: Text
    annotator: Identifier
    margin: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    """By how much chosen is preferred: a difference of ratings or ranks."""


def prompt_identity(prompt: PromptText | Sequence[Message]) -> str | tuple[Message, ...]:
    """The prompt as the key of a dictionary: equal where nothing at all differs."""
    return prompt if isinstance(prompt, str) else tuple(prompt)


def prompt_text(prompt: PromptText | Sequence[Message]) -> str:
    """The prompt as one string: as people are shown it, and as a model without a chat template reads it.

    A single user turn is its content, as a chat template makes one user turn of a text; other turns are lines that open
    with their roles, so that no role is lost.
    """
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and prompt[0].role == "user" and not prompt[0].calls:
        return prompt[0].content
    return "\n".join(f"{turn.role}: {turn.content}{_calls_of(turn)}" for turn in prompt)


def _calls_of(turn: Message) -> str:
    return json.dumps(turn.calls, ensure_ascii=False) if turn.calls else ""


def is_blank_prompt(prompt: PromptText | Sequence[Message]) -> bool:
    """Whether nothing is asked: a blank text, no turn, or a blank one; the system's may be blank beside others."""
    if isinstance(prompt, str):
        return is_blank(prompt)
    turns = [turn for turn in prompt if turn.role != "system"] or prompt
    return not turns or any(turn.is_blank for turn in turns)


def prompt_key(prompt: PromptText | Sequence[Message]) -> str:
    """What tells two prompts apart for what is held out: what the model reads, less what hardly changes it.

    Case, white space, invisible characters and Unicode's ways to write one character (NFKC) make no other prompt;
    neither does the form, text or chat, nor a turn without content.
    """
    text = prompt_text(prompt if isinstance(prompt, str) else [turn for turn in prompt if not turn.is_blank])
    if not text.isascii():
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
        text = unicodedata.normalize("NFKC", text.casefold())
    return " ".join(text.casefold().split())


def digest(*texts: str, base: bytes = b"") -> bytes:
    """What tells lists of texts apart in 16 bytes, whatever their length.

    Args:
        texts: in their order.
        base: the digest of a list that these go on.
    """
    made = hashlib.blake2b(base, digest_size=16)
    for text in map(str.encode, texts):
        made.update(b"%d:" % len(text) + text)
    return made.digest()


_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")
"""Soft hyphens, marks of direction, and joiners of no width."""
