"""Canaries as people read them: what the policy answers to a few fixed prompts, and what the champion answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import regex

from rlhf.evaluation.text import WORD
from tasks.paths import Paths
from tasks.roles import ROLES

PIECES = regex.compile(rf"(?V1)\s+|{WORD}")
MARKS = regex.compile(r"([\\`*_~<>|#\[\]])")


def read(paths: Paths) -> list[dict[str, Any]]:
    """The rows that register left; none where nothing was registered, or no canaries are asked for."""
    if not paths.registered.is_file():
        return []
    rows: list[dict[str, Any]] = json.loads(paths.registered.read_text(encoding="utf-8")).get("canaries", [])
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A section for each prompt; what the champion wrote and the policy does not is struck out, what is new is bold.

    Args:
        rows: `prompt`, `policy` (its answer), `champion` (its answer, None without another champion) and `version`, the
            champion's.
    """
    sections = []
    for row in rows:
        lines = [f"### {_plain(row['prompt'])}", f"- {ROLES['policy'].title}: {_plain(row['policy'])}"]
        if row["champion"] is None:
            lines.append("- no other champion to set it beside")
        elif row["champion"] == row["policy"]:
            lines.append(f"- champion {row['version']}: the same")
        else:
            lines.append(f"- champion {row['version']}: {_plain(row['champion'])}")
            lines.append(f"- difference: {' '.join(_difference(row['champion'], row['policy']))}")
        sections.append("\n".join(lines))
    return "\n\n".join(sections) + "\n"


def _difference(before: str, after: str) -> Iterator[str]:
    left, right = PIECES.findall(before), PIECES.findall(after)
    for kind, start, end, from_, to in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        gone, new = _plain("".join(left[start:end])), _plain("".join(right[from_:to]))
        if kind == "equal":
            yield new
            continue
        yield from (mark for mark in (gone and f"~~{gone}~~", new and f"**{new}**") if mark)


def _plain(text: str) -> str:
    """A text on one line, its signs shown as they are."""
    return MARKS.sub(r"\\\1", " ".join(text.split()))
