"""The pairs stage counts what it keeps and drops, and never lets a prompt into two splits."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tasks import pairs, stages
from tasks.files import write_rows
from tasks.params.pairs import PairsParams
from tasks.params.rank import FeedbackParams, RankParams
from tasks.paths import Paths
from tasks.rank import run as rank
from tasks.sources.files import read_file
from tasks.sources.rows import Problems


def run(paths: Paths, params: PairsParams) -> dict[str, float]:
    """The stage on a workspace's files."""
    return pairs.run(stages.files("pairs", paths), params)


def ranking(identifier: str, split: str, ranks: list[int], texts: list[str] | None = None) -> dict[str, Any]:
    completions = texts or [f"text {index}" for index in range(len(ranks))]
    row = {"id": identifier, "prompt": f"ask {identifier}", "completions": completions, "ranks": ranks}
    return {**row, "annotator": "ann", "split": split}


def written(paths: Paths, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (paths.pairs / f"{split}.jsonl").read_text().splitlines()]


def test_every_couple_is_a_pair_a_tie_a_duplicate_or_a_leak(tmp_path: Path) -> None:
    """By hand: a gives 3 pairs, b 2 and a tie, c 1, d 2 and a duplicate; d's other ranking is a leak."""
    paths = Paths(tmp_path)
    rows = [
        ranking("a", "train", [1, 2, 3]),
        ranking("b", "train", [1, 1, 3]),
        ranking("c", "dev", [2, 1]),
        ranking("d", "test", [1, 2, 3], ["same", "other", "same"]),
        ranking("d", "train", [1, 2]),
    ]
    write_rows(paths.rankings, rows)
    assert run(paths, PairsParams()) == {
        "rankings": 5,
        "pairs": 8,
        "ties_dropped": 1,
        "duplicates_dropped": 1,
        "leaks_dropped": 1,
        "warnings": 0,
        "train_pairs": 5,
        "dev_pairs": 1,
        "test_pairs": 2,
        "judge_pairs": 0,
    }
    assert written(paths, "dev") == [
        {
            "prompt": "ask c",
            "chosen": "text 1",
            "rejected": "text 0",
            "annotator": "ann",
            "margin": 1.0,
            "ranking": "c",
        }
    ]
    assert written(paths, "judge") == []
    assert paths.data_docs.joinpath("index.html").is_file()


def test_a_split_without_pairs_is_an_error_that_says_which(tmp_path: Path) -> None:
    """All rankings of dev are ties, and there is none of test; nothing is written."""
    paths = Paths(tmp_path)
    write_rows(paths.rankings, [ranking("a", "train", [1, 2]), ranking("b", "dev", [1, 1])])
    with pytest.raises(ValueError, match=r"no pair falls in dev, test \(2 rankings give 1 train, 0 dev"):
        run(paths, PairsParams())
    assert not paths.pairs.exists()


def test_odd_pairs_are_told_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A blank text that was preferred ends nothing, but is said on standard error."""
    paths = Paths(tmp_path)
    rows = [ranking(split, split, [1, 2]) for split in ("train", "dev", "test")]
    write_rows(paths.rankings, [*rows, ranking("blank", "train", [1, 2], [" ", "b"])])
    assert run(paths, PairsParams())["warnings"] == 1
    assert "warning: pairs: chosen is blank" in capsys.readouterr().err


def test_missing_and_malformed_rankings_are_named(tmp_path: Path) -> None:
    """No file, an empty file, and ranks that do not match on line 2."""
    paths = Paths(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"rankings\.jsonl: no such file"):
        run(paths, PairsParams())
    write_rows(paths.rankings, [])
    with pytest.raises(ValueError, match="the file is empty"):
        run(paths, PairsParams())
    write_rows(paths.rankings, [ranking("a", "any", [1, 2]), ranking("b", "any", [1, 2], ["one"] * 3)])
    with pytest.raises(ValueError, match=r"rankings\.jsonl:2: ranks has 2 entries for 3 completions"):
        run(paths, PairsParams())
    assert not paths.pairs.exists()


@pytest.mark.skipif("NIGHTJAR_DATA" not in os.environ, reason="NIGHTJAR_DATA names no folder of real rankings")
@pytest.mark.parametrize(
    ("criterion", "pairs", "ties", "same"), [("quality", 8789, 8747, 14), ("naturalness", 11444, 13511, 35)]
)
def test_real_rankings_give_the_pairs_that_were_counted_before(
    tmp_path: Path, criterion: str, pairs: int, ties: int, same: int
) -> None:
    """The E2E crowd rankings, all 5-way: pairs + ties + identical texts are ten per ranking."""
    paths = Paths(tmp_path)
    name = f"e2e_{criterion}_train.jsonl"
    source = Path(os.environ["NIGHTJAR_DATA"]) / "rankings" / f"{name}.gz"
    rows = [row.values for row in read_file(source, source.name, Problems())]
    write_rows(paths.validated / "feedback" / name, rows)
    held_out = [ranking("dev", "", [1, 2]), ranking("test", "", [1, 2])]
    for row in held_out:
        write_rows(paths.validated / "feedback" / f"{row['id']}.jsonl", [row])
    files = FeedbackParams(train=[name], dev=["dev.jsonl"], test=["test.jsonl"])
    rank(stages.files("rank", paths), RankParams(annotator="people", feedback=files))
    metrics = run(paths, PairsParams())
    found = (metrics["train_pairs"], metrics["ties_dropped"], metrics["duplicates_dropped"])
    assert found == (pairs, ties, same)
    assert sum(found) == 10 * len(rows)
