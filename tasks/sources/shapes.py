"""Rows in the shapes of other tools: one message a file, which names the shape and how such rows are written here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from shlex import quote
from typing import Literal, NamedTuple

from tasks.sources.rows import Problems, RawRow


class Shape(NamedTuple):
    """How another tool writes its rows."""

    name: str
    fields: frozenset[str]
    """Those that every such row has."""
    advice: str
    """What our fields are made of, in words."""
    becomes: Literal["demonstrations", "rankings"]
    program: str = ""
    """What our fields are made of, for jq; NAME stands for the file's name. Empty where the tool's settings decide."""


RANKING = '{id: (.id // "NAME-\\($n)" | tostring), ranks: [1, 2], annotator: (.annotator // "unknown")'
PREFERRED = Shape(
    "preferences of TRL and Hugging Face (chosen, rejected)",
    frozenset({"chosen", "rejected"}),
    "completions are the last turns of chosen and rejected, ranks 1 and 2, and prompt is what stands before them",
    "rankings",
    'def answer: if type == "array" then .[-1].content else . end; '
    'def asked: if type == "array" then .[:-1] else error("cut the prompt off chosen and rejected first") end; '
    f"del(.chosen, .rejected) + {RANKING}, prompt: (.prompt // (.chosen | asked)), "
    "completions: [.chosen, .rejected | answer]}",
)
LABELLED = Shape(
    "TRL's unpaired preferences (prompt, completion, label)",
    frozenset({"prompt", "completion", "label"}),
    "a label on one completion is no comparison: give each prompt two or more completions and their ranks",
    "rankings",
)
SHAPES = (
    Shape(
        "chat messages of OpenAI and TRL (messages)",
        frozenset({"messages"}),
        "prompt is the messages before the last, response is the last one's content",
        "demonstrations",
        "del(.messages) + {prompt: .messages[:-1], response: .messages[-1].content}",
    ),
    Shape(
        "ShareGPT's conversations (from, value)",
        frozenset({"conversations"}),
        "prompt is the turns before the last as role and content, response is the last one's value",
        "demonstrations",
        'def role: {human: "user", gpt: "assistant"}[.] // .; del(.conversations) + {prompt: [.conversations[:-1][] | '
        "{role: (.from | role), content: .value}], response: .conversations[-1].value}",
    ),
    Shape(
        "Alpaca's instructions (instruction, input, output)",
        frozenset({"instruction", "output"}),
        "prompt is instruction and input, response is output",
        "demonstrations",
        "del(.instruction, .input, .output) + "
        '{prompt: [.instruction, .input | select(. != null and . != "")] | join("\\n\\n"), response: .output}',
    ),
    Shape(
        "Dolly's instructions (instruction, context, response)",
        frozenset({"instruction", "response"}),
        "prompt is instruction and context",
        "demonstrations",
        "del(.instruction, .context) + "
        '{prompt: [.instruction, .context | select(. != null and . != "")] | join("\\n\\n"), response}',
    ),
    Shape(
        "questions and answers (question, answer)",
        frozenset({"question", "answer"}),
        "prompt is question, response is answer",
        "demonstrations",
        "del(.question, .answer) + {prompt: .question, response: .answer}",
    ),
    Shape(
        "OpenAI's preferences (input, preferred_output, non_preferred_output)",
        frozenset({"preferred_output", "non_preferred_output"}),
        "prompt is input's messages, completions are the content of both outputs, ranks 1 and 2",
        "rankings",
        "del(.input, .preferred_output, .non_preferred_output) + "
        f"{RANKING}, prompt: .input.messages, "
        "completions: [.preferred_output, .non_preferred_output | .[-1].content]}",
    ),
    Shape(
        "an export of Label Studio (data, annotations)",
        frozenset({"data", "annotations"}),
        "write a row for each annotation: prompt and completions out of data, ranks out of its result, annotator is "
        "its completed_by",
        "rankings",
    ),
    Shape(
        "an export of Argilla (fields, responses)",
        frozenset({"fields", "responses"}),
        "write a row for each response: prompt and completions out of fields, ranks out of its value, annotator is its "
        "user_id",
        "rankings",
    ),
)
"""Shapes without a prompt of ours."""
OWN = {
    "rankings": Shape("rankings", frozenset({"prompt", "completions", "ranks"}), "", "rankings"),
    "demonstrations": Shape("demonstrations", frozenset({"prompt", "response"}), "", "demonstrations"),
    "prompts": Shape("prompts", frozenset({"prompt", "references"}), "", "demonstrations"),
}
FOLDERS = {"demonstrations": "data/source", "rankings": "data/feedback"}


def shape_of(fields: set[str]) -> Shape | None:
    """The shape of another tool that a row with these fields has; None where it has none, or ours."""
    if any(own.fields <= fields for own in OWN.values()):
        return None
    shapes = (PREFERRED, LABELLED) if "prompt" in fields else (PREFERRED, *SHAPES)
    return next((shape for shape in shapes if shape.fields <= fields), None)


def without_shapes(rows: Iterable[RawRow], shown: str, kind: str, problems: Problems) -> Iterator[RawRow]:
    """Yields the rows that have no other shape than ours; the others are one problem a shape.

    Args:
        rows: of one file.
        shown: its name in messages.
        kind: what belongs there, `demonstrations` (and prompts) or `rankings`.
        problems: collects what is found.
    """
    total, alike, first = 0, Counter[Shape](), dict[Shape, str]()
    for row in rows:
        total += 1
        own = next((own for own in OWN.values() if own.fields <= row.values.keys()), None)
        shape = own if own is not None and own.becomes != kind else shape_of(set(row.values))
        if shape is None:
            yield row
        else:
            alike[shape] += 1
            first.setdefault(shape, row.location)
    for shape, count in alike.items():
        named = f"{shown}: {count} of {total} rows, such as {first[shape]}, are {shape.name}"
        problems.add(f"{named}; {advice_on(shape, shown)}")


def advice_on(shape: Shape, shown: str) -> str:
    """What to do with a file of this shape."""
    folder = FOLDERS[shape.becomes]
    if shape in OWN.values():
        return f"move them to a file below {folder}"
    name = PurePath(shown).name.partition(".")[0]
    advice = f"write them as {shape.becomes} below {folder}: {shape.advice}"
    if not shape.program or not shown.endswith((".jsonl", ".ndjson")):
        return advice
    options, program = "-c", shape.program.replace("NAME", name)
    if "$n" in program:  # an id is made of the row's number
        options, program = "-cn", f"foreach inputs as $row (0; . + 1; . as $n | $row | {program})"
    return f"{advice}\n  jq {options} '{program}' {quote(shown)} > {quote(f'{folder}/{shape.becomes}_{name}.jsonl')}"
