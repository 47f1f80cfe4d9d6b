"""Canaries as people read them: what is gone, what is new, and texts that look like Markdown."""

from __future__ import annotations

from typing import Any

import pytest

from tasks.reports.canaries import markdown


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ("The Mill serves Thai food.", "The Mill serves cheap food.", "The Mill serves ~~Thai~~ **cheap** food."),
        ("a b", "a b c", "a b **c**"),
        ("a b c", "", "~~a b c~~"),
        ("我爱北京", "我爱南京", "我爱 ~~北~~ **南** 京"),
        ("a *b*", "a_c\nd", "~~a \\*b\\*~~ **a\\_c d**"),
    ],
)
def test_what_is_gone_is_struck_out_and_what_is_new_is_bold(before: str, after: str, difference: str) -> None:
    """Word by word, of scripts without spaces letter by letter; signs of Markdown are shown as they are."""
    text = markdown([{"prompt": "p", "policy": after, "champion": before, "version": 3}])
    assert text.splitlines()[-1] == f"- difference: {difference}"
    assert "- champion 3: " in text


def test_the_same_answer_and_no_champion_are_said() -> None:
    """A section for each prompt."""
    rows: list[dict[str, Any]] = [
        {"prompt": "p # q", "policy": "a", "champion": "a", "version": 3},
        {"prompt": "r", "policy": "b", "champion": None, "version": None},
    ]
    assert markdown(rows) == (
        "### p \\# q\n- policy: a\n- champion 3: the same\n\n### r\n- policy: b\n- no other champion to set it beside\n"
    )
