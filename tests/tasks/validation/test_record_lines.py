"""Records kept as lines are the records that they were, in a fraction of the memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from rlhf.records import Demonstration, Pair, Prompt, Ranking, Record
from tasks.files import read_records, write_records
from tasks.validation.record_lines import AT_ONCE, RecordLines, batches

CHAT = [{"role": "user", "content": "é\u2028", "name": None}, {"role": "assistant", "tool_calls": [{"f": 1}]}]
ROWS: list[tuple[type[Record], dict[str, Any]]] = [
    (Ranking, {"prompt": CHAT, "completions": ["a", "a", ""], "ranks": ["1", 1.0, 3], "annotator": 7, "ratings": None}),
    (
        Ranking,
        {"id": "s", "split": "dev", "prompt": "p", "completions": ["", "b"], "ranks": [2, 1], "annotator": "a"},
    ),
    (Demonstration, {"prompt": CHAT, "response": "\x1b😀\n", "note": {"a": [None, -0.0, 1e300, 10**400, True]}}),
    (Prompt, {"prompt": "", "score": 0.1}),
    (Pair, {"prompt": "p", "chosen": "c", "rejected": "r", "annotator": "a", "margin": 0.1}),
    (Pair, {"prompt": "p", "chosen": "c", "rejected": "r", "annotator": "a"}),
]


@pytest.mark.parametrize(("kind", "fields"), ROWS)
def test_a_record_comes_back_equal_and_is_written_as_it_would_be(
    tmp_path: Path, kind: type[Record], fields: dict[str, Any]
) -> None:
    """Chats, tool calls, fields of a team's own with null, huge and negative zero values."""
    record = kind.model_validate({"id": 1, **fields} if kind is not Pair else fields)
    lines = RecordLines(kind, [record])
    assert [*lines] == [lines[0]] == [lines[-1]] == [record]
    lines.write(tmp_path / "lines.jsonl")
    write_records(tmp_path / "records.jsonl", [record])
    assert (tmp_path / "lines.jsonl").read_bytes() == (tmp_path / "records.jsonl").read_bytes()
    changed = lines.chosen([0], split="test")
    changed.write(tmp_path / "lines.jsonl")
    write_records(tmp_path / "records.jsonl", [record.model_copy(update={"split": "test"})])
    assert (tmp_path / "lines.jsonl").read_bytes() == (tmp_path / "records.jsonl").read_bytes()
    assert [*changed] == read_records(tmp_path / "records.jsonl", kind) == [changed[0]]


def test_lines_are_a_sequence_and_what_is_chosen_of_them_is_one_too() -> None:
    """Length, order, slices, adding; nothing is false, and a position beyond the end an error."""
    rows = [Prompt(id=f"{number}", prompt="p") for number in range(5)]
    lines = RecordLines(Prompt, rows[:3])
    lines.extend(iter(rows[3:]))
    assert (len(lines), [*lines], [*lines[1:3]], [*reversed(lines)]) == (5, rows, rows[1:3], rows[::-1])
    assert [row.id for row in lines.chosen([4, 0])] == ["4", "0"]
    assert not RecordLines(Prompt)
    with pytest.raises(IndexError):
        lines[5]


def test_a_line_takes_little_more_than_its_text() -> None:
    """Under twice its bytes, where the object takes six times as much."""
    fields = {"prompt": "p" * 70, "completions": ["a" * 90, "b" * 90], "ranks": [1, 2], "annotator": "ann"}
    tracemalloc.start()
    try:
        lines = RecordLines(Ranking, (Ranking.model_validate({"id": f"r{row}", **fields}) for row in range(500)))
        taken = tracemalloc.get_traced_memory()[0] / 500
    finally:
        tracemalloc.stop()
    assert taken < 2 * len(lines[0].model_dump_json())


def test_batches_are_all_rows_in_their_order() -> None:
    """Full ones, and what is left; none of nothing."""
    assert [len(some) for some in batches(range(2 * AT_ONCE + 1))] == [AT_ONCE, AT_ONCE, 1]
    assert [row for some in batches(iter(range(AT_ONCE + 1))) for row in some] == list(range(AT_ONCE + 1))
    assert [*batches([])] == []
