"""Rows come in with their places, and what is malformed is named."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.records import Demonstration
from tasks.sources.files import read_file
from tasks.sources.hub import read_hub
from tasks.sources.local import SourceRows, read_local
from tasks.sources.rows import Problems, as_records


def read(path: Path) -> tuple[list[dict[str, object]], list[str]]:
    problems = Problems()
    return [row.values for row in read_file(path, path.name, problems)], problems.messages


def workspace(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / "data" / "source" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return root


def local(root: Path, source: str) -> SourceRows:
    problems = Problems()
    found = read_local(root, source, problems)
    problems.stop()
    return found


def test_plain_and_gzip_lines_are_read_alike_and_blank_lines_keep_the_count(tmp_path: Path) -> None:
    """Rows stand on lines 1 and 3 of a file with a byte-order mark."""
    text = '\ufeff{"a": 1}\n\n{"a": 2}\n'
    (tmp_path / "x.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("x.jsonl", "x.jsonl.gz"):
        rows = read_file(tmp_path / name, name, Problems())
        assert [(row.location, row.values) for row in rows] == [(f"{name}:1", {"a": 1}), (f"{name}:3", {"a": 2})]


def test_every_malformed_line_is_collected_with_its_number_and_reason(tmp_path: Path) -> None:
    """Six kinds of damage in one file are six problems, and the good line is read."""
    lines = [b'{"a": ', b"[1]", b'{"a": "\xff"}', b'{"a": NaN}', b'{"a": "\\ud83d"}', b'{"a": 1}', b"{}{}"]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(lines))
    rows, problems = read(tmp_path / "x.jsonl")
    assert rows == [{"a": 1}]
    assert [problem.split(":", 2)[1] for problem in problems] == ["1", "2", "3", "4", "5", "7"]
    reasons = ["not JSON", "found list", "not UTF-8", "NaN is no JSON value", "surrogate", "not JSON"]
    assert all(reason in problem for reason, problem in zip(reasons, problems, strict=True))


def test_an_empty_file_a_missing_file_and_an_unknown_suffix_are_told_apart(tmp_path: Path) -> None:
    """Each says what was found and what to do."""
    (tmp_path / "empty.jsonl").write_text("\n")
    assert read(tmp_path / "empty.jsonl")[1] == ["empty.jsonl: the file is empty; give at least one row"]
    with pytest.raises(FileNotFoundError, match=r"gone\.jsonl: no such file"):
        read(tmp_path / "gone.jsonl")
    with pytest.raises(ValueError, match=r"found a \.xlsx file; expected one of \.jsonl"):
        read(tmp_path / "x.xlsx")


def test_a_cut_or_false_gzip_file_is_a_problem_not_a_traceback(tmp_path: Path) -> None:
    """Half a gzip file and a plain text called .gz both say to compress it again."""
    whole = gzip.compress(b'{"a": 1}\n' * 5000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "false.jsonl.gz").write_bytes(b'{"a": 1}\n')
    for name in ("cut.jsonl.gz", "false.jsonl.gz"):
        assert read(tmp_path / name)[1][-1].startswith(f"{name}: not a whole gzip file")


def test_the_first_ten_problems_are_shown_and_the_rest_counted() -> None:
    """Thirteen problems: ten lines and "3 more"; one problem is shown alone."""
    problems = Problems([f"f:{number}: bad {number}" for number in range(1, 14)])
    with pytest.raises(ValueError, match=r"^13 malformed rows") as caught:
        problems.stop()
    assert "f:10: bad 10\n… and 3 more" in str(caught.value)
    assert "f:11" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^f:1: bad$"):
        Problems(["f:1: bad"]).stop()
    Problems().stop()


def test_what_is_wrong_with_several_rows_of_a_file_alike_is_told_once() -> None:
    """By file and reason, with the number of rows and the last of them."""
    problems = Problems([f"f:{number}: no id" for number in range(1, 1001)] + ["g: 2:1: no id", "f:3: bad", "g: empty"])
    with pytest.raises(ValueError, match=r"^1003 malformed rows") as caught:
        problems.stop()
    assert str(caught.value).splitlines()[1:] == [
        "f:1: no id (and 999 more rows of the file, up to line 1000)",
        "g: 2:1: no id",
        "f:3: bad",
        "g: empty",
    ]


def test_wrong_types_and_double_ids_name_both_places(tmp_path: Path) -> None:
    """Row 2 repeats the id of row 1; row 3 has a number for a response."""
    rows = [{"id": "a", "prompt": "p", "response": "r"}] * 2 + [{"id": "b", "prompt": "p", "response": 3}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    problems = Problems()
    as_records(read_file(tmp_path / "x.jsonl", "x.jsonl", problems), Demonstration, problems)
    assert problems.messages[0] == "x.jsonl:2: id 'a' is at x.jsonl:1 already; give every row its own id"
    assert problems.messages[1].startswith("x.jsonl:3: response: Input should be a valid string (found 3)")


def test_a_table_stands_for_the_rows_of_json(tmp_path: Path) -> None:
    """Quoted commas and line breaks, references in both forms, chat messages, empty ids and extra columns."""
    (tmp_path / "x.csv").write_text(
        "id,prompt,references,reference_1,reference_2,note\n"
        '1,"a, b","[""one"", ""two""]",,three,x\n'
        ',"line\nbreak",,,,\n'
        '3,"[{""role"": ""user"", ""content"": ""hi""}]",[],only,,\n',
        encoding="utf-8",
    )
    problems = Problems()
    rows = read_file(tmp_path / "x.csv", "x.csv", problems)
    assert [row.line for row in rows] == [2, 3, 5]
    assert [row.values for row in rows] == [
        {"id": "1", "prompt": "a, b", "references": ["one", "two", "three"], "note": "x"},
        {"prompt": "line\nbreak", "references": [], "note": ""},
        {"id": "3", "prompt": [{"role": "user", "content": "hi"}], "references": ["only"], "note": ""},
    ]
    assert problems.messages == []


def test_a_malformed_table_names_line_and_reason(tmp_path: Path) -> None:
    """A row with a cell too many, a references cell that is no list, and a header without prompt."""
    (tmp_path / "x.csv").write_text('prompt,references\np,"[]",more\np,{"a": 1}\np,oops\n')
    assert [problem[:8] for problem in read(tmp_path / "x.csv")[1]] == ["x.csv:2:", "x.csv:3:", "x.csv:4:"]
    (tmp_path / "y.csv").write_text("query,answer\na,b\n")
    assert "columns are query, answer; expected prompt" in read(tmp_path / "y.csv")[1][0]
    (tmp_path / "z.csv").write_text('prompt,response\na,"never closed\n')
    assert read(tmp_path / "z.csv")[1][0].startswith("z.csv:2: not CSV")


def test_rows_are_sorted_by_their_fields_and_declare_the_split_of_their_file(tmp_path: Path) -> None:
    """Train demonstrations, dev prompts, a row with a split of its own; the folder raw/ is ignored."""
    own = '{"prompt": "q", "response": "s", "split": "test"}\n'
    files = {
        "d/train.jsonl": '{"prompt": "p", "response": "r"}\n' + own,
        "d/dev.jsonl.gz": '{"id": "x", "prompt": "v", "references": ["w"]}\n',
        "d/prompts_more.csv": "prompt\nbare\n",
        "d/raw/other.jsonl": "not read",
        "d/README.md": "not read",
    }
    found = local(workspace(tmp_path, files), "data/source/d")
    assert [row.values for row in found.demonstrations] == [
        {"id": "train-1", "prompt": "p", "response": "r", "split": "train"},
        {"id": "train-2", "prompt": "q", "response": "s", "split": "test"},
    ]
    assert [row.values for row in found.prompts] == [
        {"id": "x", "prompt": "v", "references": ["w"], "split": "dev"},
        {"id": "prompts_more-2", "prompt": "bare"},
    ]


def test_a_path_outside_the_source_folder_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """Neither an absolute path nor one with .. gets out, while a link inside leads anywhere."""
    (tmp_path / "elsewhere.jsonl").write_text('{"prompt": "p", "response": "r"}\n')
    root = workspace(tmp_path / "w", {"here.jsonl": "{}"})
    for source in (
        "../elsewhere.jsonl",
        "data/source/../../../elsewhere.jsonl",
        str(tmp_path / "elsewhere.jsonl"),
    ):
        with pytest.raises(ValueError, match=r"outside data/source; copy or link it to data/source/elsewhere"):
            local(root, source)
    (root / "data/source/link.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    assert len(local(root, "data/source/link.jsonl").demonstrations) == 1


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ({"x.jsonl": "{}"}, "data/source/y.jsonl", r"data/source/y\.jsonl: no such file or folder"),
        (
            {"d/notes.md": "x"},
            "data/source/d",
            r"data/source/d: the folder holds no data; expected files called",
        ),
        (
            {"d/extra.jsonl": "{}"},
            "data/source/d",
            r"data/source/d/extra\.jsonl: found a data file of another",
        ),
        (
            {"x.jsonl": '{"text": "?"}'},
            "data/source/x.jsonl",
            r"x\.jsonl:1: fields are text; expected prompt and",
        ),
        (
            {"x.jsonl": '{"prompt": "p", "split": "eval"}'},
            "data/source/x.jsonl",
            r"x\.jsonl:1: split is 'eval'",
        ),
    ],
)
def test_a_source_that_does_not_fit_says_what_was_expected(
    tmp_path: Path, files: dict[str, str], source: str, message: str
) -> None:
    """Each message opens with the place."""
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        local(workspace(tmp_path, files), source)


def test_a_hub_name_that_is_a_path_is_refused_before_anything_is_loaded() -> None:
    """A local folder must not slip in as a Hub data set."""
    with pytest.raises(ValueError, match="expected hub:ORG/NAME"):
        read_hub("../data/source", Problems())


def run_hub(tmp_path: Path, code: str) -> str:
    """Runs code in a process of its own, since `datasets` reads its settings when imported."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_a_data_set_is_loaded_by_its_library_and_one_out_of_reach_is_a_clear_error(tmp_path: Path) -> None:
    """A folder in the Hub's layout gives its splits through the real loader; an unreachable id says so."""
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"id": 1, "prompt": "p", "response": "r", "note": "m"}\n')
    (folder / "validation.jsonl").write_text('{"id": 2, "prompt": "q", "response": "s", "note": "n"}\n')
    code = f"""
import tasks.sources.hub as hub
from tasks.sources.rows import Problems
try:
    hub.read_hub("nobody/nothing", Problems())
except ValueError as error:
    print(error)
loaded = hub.load_splits({str(folder)!r}, None)
hub.load_splits = lambda dataset, split: loaded
for row in hub.read_hub("org/name", Problems()).demonstrations:
    print(row.location, sorted(row.values.items()))
"""
    error, *rows = run_hub(tmp_path, code).splitlines()
    assert error.startswith("hub:nobody/nothing: the data set could not be loaded (")
    assert error.endswith("put the data below data/source")
    expected = [("id", 1), ("note", "m"), ("prompt", "p"), ("response", "r"), ("split", "train")]
    assert rows[0] == f"hub:org/name:train:1 {expected}"
    assert rows[1].startswith("hub:org/name:validation:1 [('id', 2), ('note', 'n')")
    assert rows[1].endswith("('split', 'dev')]")


def test_a_hub_split_is_read_alone_and_an_unknown_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`:extra` takes that split without declaring one of ours; unasked, `extra` is an error."""
    rows = [{"prompt": "p", "response": "r", "id": None}]
    monkeypatch.setattr("tasks.sources.hub.load_splits", lambda dataset, split: {split or "extra": rows})
    found = read_hub("org/name:extra", Problems())
    assert found.demonstrations[0].values == {"id": "extra-1", "prompt": "p", "response": "r"}
    with pytest.raises(ValueError, match="found a split called extra; expected train"):
        read_hub("org/name", Problems())
