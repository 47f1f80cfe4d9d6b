"""Words as the COCO caption scripts see them: Penn-Treebank-like tokens, lower case, no punctuation.

The scripts call Stanford's Java tokenizer; this is a small one of the same conventions, for what plain
English sentences hold (contractions, clitics, hyphens, prices, numbers, dashes, ellipses, brackets,
titles and initials).
"""

from __future__ import annotations

import re

PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", '"'])
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "--", "—": "--", "…": "..."})

_NOT = re.compile(r"(?<=\w)(n't)\b")
_CANNOT = re.compile(r"\bcan(not)\b")
_TOKEN = re.compile(
    r"""
      (?:mr|mrs|ms|dr|st|jr|sr|vs|etc)\.(?=\s+\S)   # a title keeps its point
    | (?:[a-z]\.){2,}                               # so do initials: u.s., e.g., p.m.
    | \d+(?:[-.,:]\d+)+(?![^\W\d])                  # 20-25, 30.99, 1,000
    | n't(?!\w)
    | '(?:s|re|ll|ve|d|m)(?!\w)
    | [^\W_]+'[^\W_]{3,}                            # d'oeuvre, o'clock
    | [^\W_]+(?:[-_][^\W_]+)*                       # family-friendly, café
    | \.\.+
    | --+
    | [?!]+
    | \S
    """,
    re.VERBOSE,
)


def ptb_tokens(text: str) -> list[str]:
    """The words of a text: contractions are cut (do n't, it 's), compounds stay whole, marks are dropped.

    Brackets stay, as -lrb- and -rrb-: the scripts drop only the upper-case spellings, after lowering.
    """
    lowered = text.lower().translate(QUOTES)
    spaced = _CANNOT.sub(r"can \1", _NOT.sub(r" \1", lowered))
    tokens = (BRACKETS.get(token, token) for token in _TOKEN.findall(spaced))
    return [token for token in tokens if token not in PUNCTUATION]
