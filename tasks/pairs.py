"""Turns rankings into pairs, preferred first.

Reads data/rankings/rankings.jsonl. Writes data/pairs/{train,dev,test,judge}.jsonl: all pairs of a prompt in
one split, judge being what only the judge learns from (empty unless rankings are held out for it).

    python -m tasks pairs
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rlhf.preferences import SPLITS, pairs_of, split_rankings
from rlhf.records import Pair, Ranking
from tasks.files import iter_records
from tasks.params.pairs import PairsParams
from tasks.progress import warn
from tasks.stage_files import StageFiles
from tasks.validation.expectations import check_table
from tasks.validation.frames import pair_frame
from tasks.validation.pair_suite import pair_checks
from tasks.validation.record_lines import RecordLines


class SplitPairs(NamedTuple):
    """The pairs by split (judge too), and the counts: rankings, and what gave none (ties, equal texts, leaks)."""

    pairs: dict[str, RecordLines[Pair]]
    rankings: int
    ties: int
    duplicates: int
    leaks: int


def run(files: StageFiles, params: PairsParams) -> dict[str, float]:
    """Writes the pairs of each split and returns the counts of what was kept and dropped.

    Raises:
        FileNotFoundError: there are no rankings.
        ValueError: a ranking is malformed, a split that is trained or measured on would be empty, or an
            error-level expectation fails.
    """
    read = iter_records(files.inputs["rankings"] / "rankings.jsonl", Ranking)
    parts, rankings, ties, duplicates, leaks = split_pairs(RecordLines(Ranking, read), params)
    warnings = _guard(parts, files.aside["docs"])
    for split, pairs in parts.items():
        pairs.write(files.outputs["pairs"] / f"{split}.jsonl")
    return {
        "rankings": rankings,
        "pairs": sum(map(len, parts.values())),
        "ties_dropped": ties,
        "duplicates_dropped": duplicates,
        "leaks_dropped": leaks,
        "warnings": warnings,
        **{f"{split}_pairs": len(pairs) for split, pairs in parts.items()},
    }


def split_pairs(rankings: Sequence[Ranking], params: PairsParams) -> SplitPairs:
    """The pairs of all rankings, by split; raises ValueError where a split that is needed has none."""
    divided = split_rankings(rankings, params.dev_share, params.test_share, params.seed, params.judge_share)
    parts = {split: RecordLines(Pair) for split in (*SPLITS, "judge")}
    ties = duplicates = 0
    for split, ranking in divided.assigned:
        result = pairs_of(ranking)
        parts[split].extend(result.pairs)
        ties += result.ties
        duplicates += result.duplicates
    if empty := [split for split in SPLITS if not parts[split]]:
        counts = ", ".join(f"{len(pairs)} {split}" for split, pairs in parts.items())
        raise ValueError(
            f"no pair falls in {', '.join(empty)} ({len(rankings)} rankings give {counts} pairs; {ties} couples are "
            "tied); add rankings of more prompts, raise the split's share, or name files for it in rank.feedback"
        )
    return SplitPairs(parts, len(rankings), ties, duplicates, divided.leaks)


def _guard(parts: dict[str, RecordLines[Pair]], docs: Path) -> int:
    """Stops at what must not be, warns of what should not, and returns the number of warnings."""
    table = pair_frame((split, pair) for split, pairs in parts.items() for pair in pairs)
    verdict = check_table(table, "pairs", pair_checks(), docs)
    if errors := verdict.lines("error"):
        listed = "\n".join(f"- {error}" for error in errors)
        raise ValueError(f"the pairs did not pass; nothing was written\n{listed}\nData Docs: {verdict.docs}")
    warnings = verdict.lines("warning")
    for line in warnings:
        warn(line)
    return len(warnings)
