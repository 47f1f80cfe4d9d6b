"""Records: strict about their own fields, silent about all others, and clear about what is wrong."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel, ValidationError

from rlhf.records import (
    Completion,
    Demonstration,
    Message,
    Pair,
    Prompt,
    PromptText,
    Ranking,
    Rollout,
    Sampling,
    is_blank_prompt,
    prompt_identity,
    prompt_key,
    prompt_text,
)

COMPLETION = {
    "text": "Hello.",
    "tokens": 2,
    "finish_reason": "eos",
    "seed": 1,
    "sampling": {"temperature": 0.7},
    "logprob": -1.5,
}
ROWS: list[tuple[type[BaseModel], dict[str, object]]] = [
    (Demonstration, {"id": "d1", "prompt": "Hi", "response": "Hello."}),
    (Prompt, {"id": "p1", "prompt": [{"role": "user", "content": "Hi", "name": "Ann"}], "references": ["Hello."]}),
    (Rollout, {"prompt_id": "p1", "prompt": "Hi", "completions": [COMPLETION]}),
    (Ranking, {"id": "r1", "prompt": "Hi", "completions": ["a", "b", "c"], "ranks": [1, 1, 3], "annotator": "ann"}),
    (Pair, {"prompt": "Hi", "chosen": "a", "rejected": "b", "annotator": "ann", "margin": 2.0}),
]


@pytest.mark.parametrize(("kind", "row"), ROWS)
def test_unknown_fields_travel_along_untouched(kind: type[BaseModel], row: dict[str, object]) -> None:
    """Whatever a team keeps in its rows comes out as it went in."""
    extra = {"note": "größe", "nested": {"a": [1, None]}}
    out = kind.model_validate_json(json.dumps({**row, **extra})).model_dump(mode="json")
    assert {key: out[key] for key in extra} == extra
    assert kind.model_validate(row).model_dump(exclude_unset=True, mode="json") == row


@pytest.mark.parametrize(("kind", "row"), ROWS)
def test_every_field_of_its_own_is_needed(kind: type[BaseModel], row: dict[str, object]) -> None:
    """A row without one of them is an error that names it; references, source and margin may be left out."""
    for field in row.keys() - {"references", "source", "margin"}:
        with pytest.raises(ValidationError, match=field):
            kind.model_validate({key: value for key, value in row.items() if key != field})


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Demonstration, {"response": 5}),
        (Demonstration, {"id": ""}),
        (Demonstration, {"prompt": None}),
        (Prompt, {"references": "Hello."}),
        (Prompt, {"prompt": [{"role": "user"}]}),
        (Ranking, {"ranks": ["one", "1", "3"]}),
        (Ranking, {"ranks": [1, 1.5, 3]}),
        (Ranking, {"ranks": [True, 1, 3]}),
        (Ranking, {"annotator": True}),
        (Demonstration, {"id": 1.5}),
        (Prompt, {"prompt": [{"role": 1, "content": "Hi"}]}),
        (Ranking, {"completions": ["a"], "ranks": [1]}),
        (Rollout, {"completions": [{**COMPLETION, "finish_reason": "bored"}]}),
        (Pair, {"margin": "2"}),
        (Pair, {"margin": -2.0}),
        (Pair, {"margin": float("nan")}),
    ],
)
def test_a_wrong_type_is_not_coerced(kind: type[BaseModel], change: dict[str, object]) -> None:
    """Numbers for text, text for numbers, one completion for two: the field is named."""
    row = dict(ROWS)[kind]
    with pytest.raises(ValidationError, match=next(iter(change))):
        kind.model_validate({**row, **change})


def test_numbers_of_rows_and_people_and_ranks_as_tables_write_them_are_taken() -> None:
    """7 and 7.0 are "7"; 1.0, "1" and " 1.0" are 1."""
    row = {"id": 7, "prompt": "Hi", "completions": ["a", "b", "c"], "ranks": [1.0, "3", " 1.0"], "annotator": 7.0}
    made = Ranking.model_validate(row)
    assert (made.id, made.ranks, made.annotator) == ("7", [1, 3, 1], "7")


@pytest.mark.parametrize("ranks", [[1, 2, 3], [3, 1, 2], [1, 1, 3], [1, 2, 2], [1, 1, 1]])
def test_ranks_from_one_with_ties_at_the_lowest_are_taken(ranks: list[int]) -> None:
    """1, 1, 3 and not 1, 1, 2."""
    row = {"id": "r", "prompt": "Hi", "completions": ["a", "b", "c"], "ranks": ranks, "annotator": "ann"}
    assert Ranking.model_validate(row).ranks == ranks


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([1, 2], r"ranks has 2 entries for 3 completions; give one rank per completion"),
        ([1, 1, 2], r"ranks are \[1, 1, 2\]; .* this order is written \[1, 1, 3\]"),
        ([0, 1, 2], r"this order is written \[1, 2, 3\]"),
        ([2, 2, 3], r"this order is written \[1, 1, 3\]"),
        ([30, 10, 10], r"this order is written \[3, 1, 1\]"),
    ],
)
def test_other_ranks_are_an_error_with_the_remedy(ranks: list[int], message: str) -> None:
    """The error shows how the same order is written here."""
    row = {"id": "r", "prompt": "Hi", "completions": ["a", "b", "c"], "ranks": ranks, "annotator": "ann"}
    with pytest.raises(ValidationError, match=message):
        Ranking.model_validate(row)


def test_sampling_by_default_is_the_models_own_distribution() -> None:
    """No filter, temperature 1, one beam."""
    plain = Sampling()
    assert (plain.temperature, plain.top_k, plain.top_p, plain.min_p) == (1.0, 0, 1.0, 0.0)
    assert (plain.num_beams, plain.repetition_penalty, plain.min_new_tokens) == (1, 1.0, 0)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": -0.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": 1.0},
        {"top_k": -1},
        {"num_beams": 0},
        {"repetition_penalty": 0.0},
        {"max_new_tokens": 0},
        {"temprature": 1.0},
        {"min_new_tokens": 9, "max_new_tokens": 8},
    ],
)
def test_sampling_out_of_range_or_misspelt_is_an_error(fields: dict[str, float]) -> None:
    """The field at fault is named."""
    with pytest.raises(ValidationError, match=next(iter(fields))):
        Sampling.model_validate(fields)


def test_records_do_not_change_once_made() -> None:
    """A frozen row cannot be edited on its way through the stages."""
    pair = Pair(prompt="Hi", chosen="a", rejected="b", annotator="ann")
    with pytest.raises(ValidationError, match="frozen"):
        pair.chosen = "c"  # type: ignore[misc]
    assert Completion.model_validate(COMPLETION).sampling == Sampling(temperature=0.7)


def chat(*turns: tuple[str, str]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in turns]


def test_a_prompt_as_text_loses_no_role() -> None:
    """Text stays itself, as one user turn does; other turns become lines of role and content."""
    assert prompt_text("Hi") == prompt_text(chat(("user", "Hi"))) == "Hi"
    assert prompt_text(chat(("system", "Be brief."), ("user", "Hi"))) == "system: Be brief.\nuser: Hi"
    assert prompt_text(chat(("assistant", "Hi"))) == "assistant: Hi"


@pytest.mark.parametrize(
    "form",
    [
        *(
            "caf\u00e9 au lait?",
            "cafe\u0301 au lait?",
            "Café au Lait?",
            " café  au\nlait? ",
            "ca\u00adfé au lait?\ufeff",
        ),
        *("ｃａｆé au lait?", chat(("user", "Café au lait? ")), chat(("system", ""), ("user", "café au lait?"))),
    ],
)
def test_forms_of_one_prompt_share_a_key(form: str | list[Message]) -> None:
    """NFC and NFD, capitals, spaces, invisible and full-width characters, text and chat."""
    assert prompt_key(form) == "café au lait?"


def test_prompts_that_are_read_otherwise_have_keys_and_identities_of_their_own() -> None:
    """Text that looks like a turn is no turn; another word, role or order is another prompt."""
    prompts: list[PromptText] = ["user: hi", chat(("user", "hi")), chat(("assistant", "hi")), "ho"]
    prompts += [chat(("user", "hi"), ("user", "ho")), chat(("user", "ho"), ("user", "hi"))]
    assert len({prompt_key(prompt) for prompt in prompts}) == 6
    turn = {"role": "user", "content": "hi"}
    forms: list[PromptText] = ["hi", "Hi", chat(("user", "hi")), [Message.model_validate({**turn, "name": "Ann"})]]
    assert len({prompt_identity(form) for form in forms}) == 4
    assert prompt_identity(chat(("user", "hi"))) == prompt_identity(chat(("user", "hi")))


def test_a_prompt_is_blank_where_nothing_is_asked() -> None:
    """A text, no turn, any turn of user or assistant; a system turn may be empty beside others, and a call speaks."""
    call = Message.model_validate({"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]})
    blank: list[PromptText] = [
        " \n",
        [],
        chat(("user", "")),
        chat(("user", "a"), ("assistant", " ")),
        chat(("system", " ")),
    ]
    assert all(map(is_blank_prompt, blank))
    asked: list[PromptText] = [
        "a",
        chat(("system", ""), ("user", "a")),
        chat(("system", "a")),
        [*chat(("user", "a")), call],
    ]
    assert not any(map(is_blank_prompt, asked))
