"""Bad batches in a file: a line each, in JSON that anything reads, and told as they come."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tasks.training.bad_batches import keep_in


def test_each_bad_batch_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers that JSON has no word for are texts, at any depth; a second run adds to the file."""
    file = tmp_path / "nights" / "bad_batches" / "sft.jsonl"
    for step in (3, 4):
        keep = keep_in(file, "sft")
        place = keep({"found": "the loss is nan", "step": step, "rows": [{"score": float("-inf"), "text": "né"}]})
        assert place == str(file)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [3, 4]
    assert rows[0]["rows"] == [{"score": "-inf", "text": "né"}]
    assert f"sft: a batch is skipped: the loss is nan; it is kept in {file}" in capsys.readouterr().out
