"""Splits by prompt, in whatever form it comes."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf.preferences import split_of
from rlhf.records import Demonstration, Prompt
from tasks.validation.splits import assign_splits, declared_splits, twins


def prompts(*rows: dict[str, Any]) -> list[Demonstration | Prompt]:
    return [Prompt.model_validate({"id": f"{number}", **row}) for number, row in enumerate(rows)]


CHAT = [{"role": "user", "content": "Is tea hot?"}]


@pytest.mark.parametrize("form", ["Is Tea Hot?", "is tea hot? ", CHAT])
def test_a_twin_of_a_test_prompt_is_held_out_with_it(form: object) -> None:
    """Where it declares nothing it goes to test; where it declares train, both splits are named."""
    rows = prompts({"prompt": "is tea hot?", "split": "test"}, {"prompt": form})
    assert assign_splits(rows, declared_splits(rows), 0.0, 0.0, 0) == {"is tea hot?": "test"}
    rows = prompts({"prompt": "is tea hot?", "split": "test"}, {"prompt": form, "split": "train"})
    assert declared_splits(rows) == {"is tea hot?": ["test", "train"]}


def test_other_prompts_keep_the_split_of_their_text() -> None:
    """The hash is that of the text as it stands, capitals and all."""
    rows = prompts(*({"prompt": f"Ask {number}"} for number in range(100)))
    splits = assign_splits(rows, {}, 0.1, 0.2, 3)
    assert splits == {f"ask {number}": split_of(f"Ask {number}", 0.1, 0.2, 3) for number in range(100)}


def test_prompts_in_several_forms_are_named_by_two_of_them() -> None:
    """One question three times, and one that stands alone, however often."""
    rows = prompts({"prompt": "Is tea hot?"}, {"prompt": "is tea hot?"}, {"prompt": CHAT}, *[{"prompt": "Ice?"}] * 2)
    assert twins(rows) == {"is tea hot?": "'Is tea hot?' and 'chat: Is tea hot?'"}
