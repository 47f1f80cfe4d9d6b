"""Texts in which nothing is written: white space, and characters that leave no mark."""

from __future__ import annotations

import re

UNWRITTEN = (
    # White space, controls; soft hyphen, joiners and fillers; marks of direction; separators of nothing; variation
    # selectors and tags: Unicode's Default_Ignorable_Code_Point, and the empty Braille cell.
    r"\s\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff"
)
WRITTEN = f"[^{UNWRITTEN}]"
"""A regular expression of a character that leaves a mark."""
_WRITTEN = re.compile(WRITTEN)


def is_blank(text: str) -> bool:
    """Whether a text shows nothing, such as a zero-width space (U+200B) alone."""
    return _WRITTEN.search(text) is None
