"""What is to be forgotten, and which rows that is, in whatever file they lie."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from rlhf.records import Identifier, PromptText, prompt_key, prompt_text

Kind = Literal["annotator", "prompt", "row"]
TEXTS = ("prompt", "response", "references")
"""The fields whose texts travel from a row of data/source into what is made of it."""
SHORTEST = 12
"""Characters that a text must have to be searched for by itself: `Yes.` stands everywhere."""
_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)
_PROMPT: TypeAdapter[Any] = TypeAdapter(PromptText)


@dataclass(frozen=True)
class Request:
    """What a person asked to be forgotten.

    Attributes:
        kind: what `id` names.
        id: of an annotator, a prompt, or one row of data/source or data/feedback.
        prompts: of a prompt, the keys by which splits compare prompts: whatever has one of them is to go too.
        contents: of rows whose id is made from their line, what they hold; that line may have been another row before.
        texts: texts that no other row of the sources has, each as `key_of_text` has it; they give away what was made
            of the rows.
    """

    kind: Kind
    id: str
    prompts: frozenset[str] = frozenset()
    contents: tuple[Mapping[str, Any], ...] = ()
    texts: frozenset[str] = frozenset()

    def names(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of a source is meant by its own fields; its id may be made from its line."""
        if self.kind == "annotator":
            return identifier(row, "annotator") == self.id
        own = identifier(row, "id")
        if self.kind == "row":
            return own == self.id
        # ingest gives the prompt of a demonstration the last of these.
        return self.id in (own, identifier(row, "prompt_id"), f"{own}-prompt")

    def matches(self, row: Mapping[str, Any]) -> bool:
        """Whether a row is to go, be it of a source or of a file that was made of one."""
        if self.kind == "prompt" and key(row) in self.prompts:
            return True
        if self.contents:
            return any(content.items() <= row.items() for content in self.contents)
        return self.names(row)

    def gives_away(self, texts: Iterable[str]) -> bool:
        """Whether one of these texts is the rows' alone."""
        return bool(self.texts) and any(len(text) >= SHORTEST and key_of_text(text) in self.texts for text in texts)

    def is_quoted(self, text: str) -> bool:
        """Whether a text of some other kind, such as a log, quotes the rows: one of their texts, or the annotator."""
        return (self.kind == "annotator" and self._name.search(text) is not None) or self.is_told(text)

    def is_told(self, text: str) -> bool:
        """Whether one of the texts that are the rows' alone stands somewhere in a text."""
        text = key_of_text(text) if self.texts else ""
        starts = (text[index : index + SHORTEST] for index in range(len(text) - SHORTEST + 1))
        return any(each in text for start in starts if start in self._openings for each in self._openings[start])

    @cached_property
    def _name(self) -> re.Pattern[str]:
        return re.compile(rf"(?<!\w){re.escape(self.id)}(?!\w)", re.IGNORECASE)

    @cached_property
    def _openings(self) -> dict[str, list[str]]:
        """The texts by how they open, so that a long text is gone through once for all of them."""
        openings: dict[str, list[str]] = {}
        for text in self.texts:
            openings.setdefault(text[:SHORTEST], []).append(text)
        return openings

    def of_prompts(self, rows: Iterable[Mapping[str, Any]]) -> Request:
        """The same request with the prompts of these rows, where it is a prompt that is to be forgotten."""
        if self.kind != "prompt":
            return self
        return replace(self, prompts=self.prompts | {each for row in rows if (each := key(row)) is not None})

    def of_texts(self, rows: Iterable[Mapping[str, Any]], others: Iterable[Mapping[str, Any]]) -> Request:
        """The same request with the texts of these rows that none of the others has.

        A ranking's completions are not the annotator's own words, and what was sampled for other people's prompts
        stays; so a ranking gives away no text but the prompt that is to be forgotten itself.
        """
        own: set[str] = set()
        for row in rows:
            fields = TEXTS if "completions" not in row else ("prompt",) if self.kind == "prompt" else ()
            own |= {key_of_text(text) for field in fields for text in _forms(row.get(field))}
        own = {text for text in own if len(text) >= SHORTEST}
        shared = {key_of_text(text) for row in others for text in strings(row)} if own else own
        return replace(self, texts=frozenset(own - shared))


def identifier(row: Mapping[str, Any], field: str) -> str | None:
    """An id as records read it, 7 as "7"; None where a row has none.

    A number is an id in a row with a prompt alone: tokenizers number their tokens, and those are no rows of people's.
    """
    value = row.get(field)
    if isinstance(value, str):
        return value
    if "prompt" not in row:
        return None
    try:
        return _IDENTIFIER.validate_python(value)
    except ValidationError:
        return None


def key(row: Mapping[str, Any]) -> str | None:
    """The prompt of a row as splits compare prompts; None where it has none."""
    try:
        return prompt_key(_PROMPT.validate_python(row["prompt"])) if row.get("prompt") else None
    except ValidationError:
        return None


def key_of_text(text: str) -> str:
    """A text as texts are compared: whoever writes it to a page may fold its spaces and mark its signs."""
    return prompt_key(text.replace("\\", ""))


def _forms(value: Any) -> Iterator[str]:
    """Every text in a value; of chat messages also the one text that people are shown."""
    yield from strings(value)
    if isinstance(value, list) and any(isinstance(turn, dict) for turn in value):
        try:
            yield prompt_text(_PROMPT.validate_python(value))
        except ValidationError:
            return


def objects(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every JSON object in a value, rows of tables among them (MLflow writes `columns` and `data`)."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        value = _parsed(value)
    if isinstance(value, dict):
        yield value
        columns, data = value.get("columns"), value.get("data")
        if isinstance(columns, list) and isinstance(data, list):
            rows = [row for row in data if isinstance(row, list) and len(row) == len(columns)]
            yield from ({str(name): _parsed(cell) for name, cell in zip(columns, row, strict=True)} for row in rows)
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(part)


def strings(value: Any) -> Iterator[str]:
    """Every text in a value, also in JSON that stands in a text."""
    if isinstance(value, str):
        yield value
        parsed = _parsed(value)
        value = None if parsed is value else parsed
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(part)


def digest(identifiers: Iterable[str]) -> str:
    """The SHA-256 of identifiers, sorted, a line each: proves which they were and does not say it."""
    return hashlib.sha256("\n".join(sorted(identifiers)).encode()).hexdigest()


def _parsed(value: Any) -> Any:
    """JSON that stands in a text, as a table's cells have it; else the value as it is."""
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
