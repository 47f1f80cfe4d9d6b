"""A text is blank where it shows nothing."""

from __future__ import annotations

import unicodedata

import pytest

from rlhf.blank import is_blank


@pytest.mark.parametrize(
    "text", ["", " \n\t", "\u00a0", "\u200b", "\u200b\u200d \ufeff", "\u3164", "\u2800", "\ufe0f", "\U000e0041", "\x1b"]
)
def test_what_leaves_no_mark_is_blank(text: str) -> None:
    """Spaces, zero-width and filler characters, byte-order marks, controls."""
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", ".", "é", "中", "😀", " \u200bx", "\u0301", "\ufffd", "☕\ufe0f"])
def test_what_leaves_one_is_not(text: str) -> None:
    """Letters, marks, signs, also beside characters that leave none."""
    assert not is_blank(text)


def test_every_space_control_and_format_character_of_unicode_is_blank() -> None:
    """Python's own table says which; of format characters all but those that draw something: number and verse signs."""
    drawn = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
    for code in set(range(0x110000)) - drawn - set(range(0xD800, 0xE000)):
        kind = unicodedata.category(chr(code))
        if kind in ("Zs", "Zl", "Zp", "Cc") or (kind == "Cf" and code < 0x10000):
            assert is_blank(chr(code)), hex(code)
        if kind in ("Lu", "Ll", "Nd", "Po", "Sm", "Sc"):
            assert not is_blank(chr(code)), hex(code)
