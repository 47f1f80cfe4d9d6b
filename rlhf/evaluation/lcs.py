"""The length of the longest common subsequence, a word of the table's column per bit."""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def lcs_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence of two sequences.

    A bit of V is 0 where the table's column rises by one; for each y of `second`, with M the bits where
    `first` holds y: V ← (V + (V & M)) | (V & ~M). The zeros left are the length. Python's integers are as wide
    as the sequence is long, so a pair of sentences costs one step per word instead of a table.

    Source: Hyyrö 2004, Bit-parallel LCS-length computation revisited, section 3.
    """
    bits: dict[Hashable, int] = {}
    for index, item in enumerate(first):
        bits[item] = bits.get(item, 0) | 1 << index
    full = (1 << len(first)) - 1
    column = full
    for item in second:
        matches = column & bits.get(item, 0)
        column = ((column + matches) | (column - matches)) & full
    return len(first) - column.bit_count()
