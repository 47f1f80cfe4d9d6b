"""Which rows a request means, by their own fields, by what they hold, and by texts that nobody else has."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.erasure import request
from tasks.erasure.request import Kind, Request

KINDS: tuple[Kind, ...] = ("row", "prompt", "annotator")
CHAT = [{"role": "user", "content": "How do I pay?"}]


@pytest.mark.parametrize(
    ("kind", "row", "meant"),
    [
        ("annotator", {"id": "r1", "annotator": "x"}, True),
        ("annotator", {"id": "x", "annotator": "y"}, False),
        ("annotator", {"id": "r1"}, False),
        ("row", {"id": "x"}, True),
        ("row", {"id": "x-prompt", "prompt_id": "x"}, False),
        ("row", {"id": ["x"]}, False),
        ("prompt", {"id": "x"}, True),
        ("prompt", {"id": "r", "prompt_id": "x"}, True),
        ("prompt", {"id": "y"}, False),
    ],
)
def test_a_row_is_meant_by_its_own_field(kind: Kind, row: dict[str, object], meant: bool) -> None:
    """An annotator by name, a row by id, a prompt by its row's id or by whoever refers to it."""
    assert Request(kind, "x").names(row) is meant


def test_the_prompt_that_ingest_makes_of_a_demonstration_has_its_id() -> None:
    """d1-prompt is the name that people see in reports."""
    assert Request("prompt", "d1-prompt").names({"id": "d1", "prompt": "?"})


@pytest.mark.parametrize(
    ("prompt", "meant"),
    [
        (CHAT, True),
        ("How do I pay?", True),
        (" how do  I\u00a0pay?", True),
        ([{"role": "system", "content": "Be brief."}, *CHAT], False),
        ("How do I pay, please?", False),
        (None, False),
        ([], False),
        ([{"role": "user"}], False),
        (7, False),
    ],
)
def test_a_prompt_is_its_text(prompt: object, meant: bool) -> None:
    """In whichever form splits take for one prompt: whatever carries it is meant, whatever its id."""
    asked = Request("prompt", "x").of_prompts([{"id": "x", "prompt": CHAT}])
    assert asked.matches({"id": "other", "prompt": prompt}) is meant


def test_a_made_id_is_not_trusted_in_copies() -> None:
    """Line 2 may have been another row: there the content tells."""
    asked = Request("row", "a-2", contents=({"prompt": "Who?", "response": "I."},))
    assert asked.matches({"prompt": "Who?", "response": "I.", "id": "a-1", "split": "train"})
    assert not asked.matches({"prompt": "When?", "response": "Now.", "id": "a-2"})


def test_texts_are_the_rows_alone_and_long_enough() -> None:
    """What another row has too gives nobody away, nor does a short text; a ranking's completions are not its own."""
    going: list[dict[str, Any]] = [
        {"prompt": "Where do you live now?", "response": "Yes."},
        {"prompt": "Shared by several rows", "references": ["Only in this one row"]},
        {"prompt": "Of a ranking, and of nobody else", "completions": ["A completion of the model"]},
    ]
    asked = Request("row", "x").of_texts(going, [{"prompt": "Shared by several rows"}])
    assert asked.texts == {"where do you live now?", "only in this one row"}
    assert asked.gives_away(["a", "Only in  this one\nrow"])
    assert not asked.gives_away(["Only in this one row, and more"])


def test_of_a_prompt_a_ranking_of_it_gives_its_text_away_too() -> None:
    """A chat also in the form that people are shown; completions are the models'."""
    chat = [{"role": "system", "content": "Be brief with him."}, {"role": "user", "content": "Pay?"}]
    asked = Request("prompt", "x").of_texts([{"prompt": chat, "completions": ["A completion of the model"]}], [])
    assert asked.texts == {"be brief with him.", "system: be brief with him. user: pay?"}


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("warning: Where do you live now? is long", True),
        ("### Where do\n you \\*live\\* now?", False),
        ("where do you live  now? and Only in this one row.", True),
        ("Only in this one \\#row", False),
        ("Only in this one row", True),
        ("Only in this", False),
        ("", False),
    ],
)
def test_a_text_of_another_kind_quotes_a_row_by_its_texts(text: str, quoted: bool) -> None:
    """Wherever in it, its spaces folded and its signs marked."""
    going = [{"prompt": "Where do you live now?", "response": "Only in this one row"}]
    assert Request("row", "x").of_texts(going, []).is_quoted(text) is quoted


@pytest.mark.parametrize(
    ("text", "quoted"),
    [("data/feedback: ana: 20 of 20 rankings", True), ("Ana.", True), ("analysis", False), ("diana", False)],
)
def test_an_annotator_is_quoted_by_name(text: str, quoted: bool) -> None:
    """As a word of its own."""
    assert Request("annotator", "ana").is_quoted(text) is quoted


def test_objects_and_texts_of_a_table_are_found() -> None:
    """MLflow writes columns and data, and JSON within cells."""
    table = {"columns": ["prompt", "scores"], "data": [['[{"role": "user", "content": "Hi"}]', '{"gold": 1}']]}
    assert {"prompt": [{"role": "user", "content": "Hi"}], "scores": {"gold": 1}} in list(request.objects(table))
    assert "Hi" in list(request.strings(table))


def test_a_digest_tells_the_ids_in_any_order_and_does_not_say_them() -> None:
    """SHA-256 of the sorted ids, a line each."""
    assert request.digest(["b", "a"]) == request.digest(["a", "b"]) != request.digest(["ab"])
    assert request.digest([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_number_is_no_id() -> None:
    """Tokenizers number their tokens: {"id": 1} is no row of people's; a row with a prompt is, and 1.0 is 1 there."""
    for kind in KINDS:
        assert not Request(kind, "1").matches({"id": 1, "annotator": 1})
        for number in (1, 1.0):
            assert Request(kind, "1").matches({"id": number, "annotator": number, "prompt": "?"})
        assert not Request(kind, "True").matches({"id": True, "annotator": True, "prompt": "?"})
