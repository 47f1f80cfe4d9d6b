"""The validate stage keeps what is good, sets aside what is bad with its reasons, and stops when it must."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from rlhf.settings.model import ModelSettings
from tasks import stages, validate
from tasks.params.validate import ValidateParams
from tasks.paths import Paths
from tasks.progress import hearing
from tasks.validate import read_inputs


def run(paths: Paths, params: ValidateParams, model: ModelSettings) -> dict[str, float]:
    """The stage on a workspace's files."""
    return validate.run(stages.files("validate", paths), params, model)


MODEL = ModelSettings(config={"model_type": "llama"}, max_prompt_tokens=20)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def put(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def ranking(identifier: str, prompt: str = "ask 0", **fields: object) -> dict[str, Any]:
    row = {"id": identifier, "prompt": prompt, "completions": ["a", "b"], "ranks": [1, 2], "annotator": "ann"}
    return {**row, **fields}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A workspace of 200 demonstrations over 100 prompts without splits."""
    found = Paths(tmp_path)
    rows = [{"id": f"d{n}", "prompt": f"ask {n % 100}", "response": f"answer {n}"} for n in range(200)]
    put(found.raw / "demonstrations.jsonl", rows)
    put(
        found.raw / "prompts.jsonl",
        [{"id": f"p{n}", "prompt": f"ask {n}", "references": [f"answer {n}"]} for n in range(100)],
    )
    return found


def test_rows_are_split_by_prompt_and_bad_ones_are_quarantined_with_reasons(paths: Paths) -> None:
    """One blank response and one damaged ranking are set aside; no prompt is in two splits."""
    bad = {"id": "bad", "prompt": "ask 1", "response": " ", "note": 7}
    put(paths.raw / "demonstrations.jsonl", [*lines(paths.raw / "demonstrations.jsonl"), bad])
    put(paths.feedback / "team" / "march.jsonl.gz", [ranking(f"r{n}", unit=n) for n in range(30)])
    put(paths.feedback / "april.jsonl", [ranking("r0", completions=["a", "b\ufffd"])])
    metrics = run(paths, ValidateParams(), MODEL)
    assert (metrics["rows_in"], metrics["rows_kept"], metrics["rows_rejected"]) == (332, 330, 2)
    assert lines(paths.quarantine / "demonstrations.jsonl") == [{**bad, "reasons": ["response is blank"]}]
    [set_aside] = lines(paths.quarantine / "feedback.jsonl")
    assert (set_aside["file"], set_aside["id"]) == ("april.jsonl", "r0")
    assert set_aside["reasons"] == ["encoding damage: completions: the replacement character U+FFFD"]
    assert (paths.quarantine / "prompts.jsonl").read_text() == ""
    homes: dict[str, set[str]] = {}
    for split in ("train", "dev", "test"):
        for kind in ("demonstrations", "prompts"):
            rows = lines(paths.validated / split / f"{kind}.jsonl")
            assert metrics[f"{split}_{kind}"] == len(rows) > 0
            for row in rows:
                assert row["split"] == split
                homes.setdefault(row["prompt"], set()).add(split)
    assert len(homes) == 100
    assert all(len(splits) == 1 for splits in homes.values())
    kept = lines(paths.validated / "feedback" / "team" / "march.jsonl")
    assert [row["unit"] for row in kept] == list(range(30))
    assert (paths.validated / "feedback" / "april.jsonl").read_text() == ""
    assert paths.data_docs.joinpath("index.html").is_file()


def test_what_is_quarantined_and_what_is_odd_is_told(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error and to whoever hears, by id, with what to do; whatever libraries made of `logging`."""
    bad = {"id": "bad", "prompt": "ask 1", "response": " "}
    put(paths.raw / "demonstrations.jsonl", [*lines(paths.raw / "demonstrations.jsonl"), bad])
    put(paths.feedback / "f.jsonl", [ranking("r", completions=["", "b"], split="train")])
    logging.getLogger("tasks").disabled = logging.getLogger("tasks.validate").disabled = True
    heard: list[tuple[int, str]] = []
    with hearing(lambda level, line: heard.append((level, line))):
        assert run(paths, ValidateParams(), MODEL)["warnings"] == 1
    assert [level for level, _ in heard] == [logging.WARNING] * 2
    quarantined, odd = (line for _, line in heard)
    assert quarantined.startswith("in data/quarantine: demonstrations: response is blank")
    assert "found in 1 of 201 rows, such as bad (' '); to do: write the response, or remove the row" in quarantined
    assert "f.jsonl: r" in odd
    said = capsys.readouterr().err
    assert f"warning: {quarantined}\n" in said
    assert f"warning: {odd}\n" in said


def test_habits_of_annotators_are_told_and_counted(paths: Paths, capsys: pytest.CaptureFixture[str]) -> None:
    """Thirty answers in the order of the list are kept, for somebody may mean them; in both orders they are none."""
    put(paths.feedback / "f.jsonl", [ranking(f"r{n}", prompt=f"other {n}") for n in range(30)])
    assert run(paths, ValidateParams(), MODEL)["warnings"] == 1
    assert "warning: data/feedback: ann: 30 of 30 rankings are in the order" in capsys.readouterr().err
    mixed = [ranking(f"r{n}", prompt=f"other {n}", ranks=[1 + n % 2, 2 - n % 2]) for n in range(30)]
    put(paths.feedback / "f.jsonl", mixed)
    assert run(paths, ValidateParams(), MODEL)["warnings"] == 0


def test_a_long_row_of_a_model_from_scratch_is_quarantined_by_its_tokens(paths: Paths) -> None:
    """560 Chinese characters are one word; among demonstrations, prompts and rankings they cost no night."""
    chinese = "".join(map(chr, range(0x4E00, 0x4E00 + 560)))
    long = {"id": "long", "prompt": chinese, "split": "test"}
    demonstration = {"id": "response", "prompt": "ask 1", "response": chinese}
    put(paths.raw / "demonstrations.jsonl", [*lines(paths.raw / "demonstrations.jsonl"), demonstration])
    put(paths.raw / "prompts.jsonl", [*lines(paths.raw / "prompts.jsonl"), long])
    put(paths.feedback / "f.jsonl", [*(ranking(f"r{n}") for n in range(30)), ranking("ranked", prompt=chinese)])
    metrics = run(paths, ValidateParams(), MODEL)
    assert metrics["rows_rejected"] == 3
    rejected = {name: lines(paths.quarantine / f"{name}.jsonl") for name in ("demonstrations", "prompts", "feedback")}
    [[reason], [prompt], [asked]] = [row["reasons"] for rows in rejected.values() for row in rows]
    assert reason.startswith("response tokens above 96: ")
    assert prompt == asked
    assert prompt.startswith("prompt tokens above 20: ")
    assert [rows[0]["id"] for rows in rejected.values()] == ["response", "long", "ranked"]


def test_the_split_of_a_prompt_does_not_depend_on_the_order_of_the_rows(paths: Paths) -> None:
    """Reversing the raw files gives the same rows in each split; what an earlier night left is gone."""
    run(paths, ValidateParams(), MODEL)
    first = {
        split: {row["id"] for row in lines(paths.validated / split / "prompts.jsonl")} for split in ("dev", "test")
    }
    put(paths.raw / "prompts.jsonl", lines(paths.raw / "prompts.jsonl")[::-1])
    put(paths.validated / "feedback" / "stale.jsonl", [{}])
    run(paths, ValidateParams(), MODEL)
    for split, ids in first.items():
        assert {row["id"] for row in lines(paths.validated / split / "prompts.jsonl")} == ids
    assert list((paths.validated / "feedback").iterdir()) == []


def test_declared_splits_are_kept_and_held_out_references_demonstrate_them(paths: Paths) -> None:
    """Training demonstrations, dev and test prompts: dev gets its references to measure SFT on."""
    rows = [{"id": f"d{n}", "prompt": f"t{n}", "response": "r", "split": "train"} for n in range(3)]
    held = [
        {"id": "x", "prompt": "dev ask", "references": ["one", "two", "far too long " * 9], "split": "dev"},
        {"id": "y", "prompt": "test ask", "references": [], "split": "test"},
    ]
    put(paths.raw / "demonstrations.jsonl", rows)
    put(paths.raw / "prompts.jsonl", [*held, {"id": "z", "prompt": "t0"}])
    run(paths, ValidateParams(max_response_tokens=9), MODEL)
    assert [row["id"] for row in lines(paths.validated / "train" / "prompts.jsonl")] == ["z"]
    made = lines(paths.validated / "dev" / "demonstrations.jsonl")
    assert [(row["id"], row["prompt"], row["response"]) for row in made] == [
        ("x-1", "dev ask", "one"),
        ("x-2", "dev ask", "two"),
    ]
    assert lines(paths.validated / "test" / "demonstrations.jsonl") == []


def put_general(paths: Paths, *more: dict[str, Any]) -> None:
    rows = [{"id": f"g{n}", "prompt": f"other {n}", "response": f"right {n}"} for n in range(100)]
    put(paths.raw / "general.jsonl", [*rows, *more])


def test_general_demonstrations_are_held_to_the_same_and_split_by_prompt(paths: Paths) -> None:
    """A blank one is quarantined; the others stand in one split each, and the rest of the night is as without them."""
    without = run(paths, ValidateParams(), MODEL)
    plain = {file: file.read_bytes() for file in paths.data.rglob("*.jsonl")}
    assert not [file for file in plain if file.name == "general.jsonl"]
    bad = {"id": "bad", "prompt": "other 1", "response": " "}
    put_general(paths, bad, {"id": "again", "prompt": "other 2", "response": "also right"})
    metrics = run(paths, ValidateParams(), MODEL)
    assert lines(paths.quarantine / "general.jsonl") == [{**bad, "reasons": ["response is blank"]}]
    homes: dict[str, set[str]] = {}
    for split in ("train", "dev", "test"):
        rows = lines(paths.validated / split / "general.jsonl")
        assert metrics[f"{split}_general"] == len(rows) > 0
        for row in rows:
            assert row["split"] == split
            homes.setdefault(row["prompt"], set()).add(split)
    assert len(homes) == 100
    assert all(len(splits) == 1 for splits in homes.values())
    assert metrics["rows_in"] == without["rows_in"] + 102
    assert metrics["rows_rejected"] == 1
    assert all(file.read_bytes() == text for file, text in plain.items())
    assert (paths.data_docs / "expectations" / "general.html").is_file()


def test_a_general_prompt_is_in_the_split_that_the_task_has_it_in(paths: Paths) -> None:
    """What is tested on is not learnt from under another heading."""
    put(
        paths.raw / "prompts.jsonl",
        [*lines(paths.raw / "prompts.jsonl"), {"id": "t", "prompt": "both", "split": "test"}],
    )
    put_general(paths, {"id": "b", "prompt": "both", "response": "r"})
    run(paths, ValidateParams(), MODEL)
    assert "both" in [row["prompt"] for row in lines(paths.validated / "test" / "general.jsonl")]
    put_general(paths, {"id": "b", "prompt": "both", "response": "r", "split": "train"})
    with pytest.raises(ValueError, match="general: the prompt is in more than one split"):
        run(paths, ValidateParams(), MODEL)


def test_general_demonstrations_that_leave_a_split_empty_are_an_error(paths: Paths) -> None:
    """Replay needs train, evaluation needs test; too many bad ones stop the night as others do."""
    put(paths.raw / "general.jsonl", [{"id": "g", "prompt": "other", "response": "r", "split": "train"}])
    with pytest.raises(ValueError, match=r"dev would hold no general demonstrations, of 1 that passed; .*dev_share"):
        run(paths, ValidateParams(), MODEL)
    put_general(paths, *({"id": f"bad{n}", "prompt": "other 1", "response": ""} for n in range(20)))
    with pytest.raises(ValueError, match=r"- general: 20 of 120 rows are bad"):
        run(paths, ValidateParams(), MODEL)
    assert not paths.validated.exists()


def test_leakage_and_too_many_bad_rows_stop_the_night_with_a_readable_list(paths: Paths) -> None:
    """A test prompt among the training demonstrations, and 40 blank responses of 200; nothing is written."""
    rows = lines(paths.raw / "demonstrations.jsonl")
    for row in rows[:40]:
        row["response"] = ""
    rows[50]["split"] = "train"
    prompts = lines(paths.raw / "prompts.jsonl")
    prompts[50]["split"] = "test"
    put(paths.raw / "demonstrations.jsonl", rows)
    put(paths.raw / "prompts.jsonl", prompts)
    with pytest.raises(ValueError, match="the data did not pass; nothing was written") as caught:
        run(paths, ValidateParams(), MODEL)
    message = str(caught.value)
    assert "- demonstrations: the prompt is in more than one split" in message
    assert "- demonstrations: 40 of 200 rows are bad, more than validate.max_rejected_share 0.05" in message
    assert f"Data Docs: {paths.data_docs / 'index.html'}" in message
    assert not paths.validated.exists()
    assert not paths.quarantine.exists()


def test_a_split_that_would_be_empty_is_an_error_that_says_which(paths: Paths) -> None:
    """Three prompts that all hash to train leave no dev split."""
    put(paths.raw / "demonstrations.jsonl", [{"id": "d", "prompt": "ask", "response": "r"}])
    put(paths.raw / "prompts.jsonl", [{"id": "p", "prompt": "ask"}])
    with pytest.raises(ValueError, match=r"dev would hold no prompts, of 1 .*raise validate\.dev_share"):
        run(paths, ValidateParams(dev_share=0.0, test_share=0.0), MODEL)
    assert not paths.validated.exists()


def test_malformed_feedback_is_named_by_file_and_line_before_anything_is_checked(paths: Paths) -> None:
    """Ranks that do not match, null ranks, a missing annotator, a double id and broken JSON, all at once."""
    rows = [
        ranking("ok"),
        ranking("few", ranks=[1]),
        ranking("null", ranks=None),
        {key: value for key, value in ranking("who").items() if key != "annotator"},
        ranking("ok"),
        ranking("gap", ranks=[1, 3]),
    ]
    put(paths.feedback / "sub" / "f.jsonl", rows)
    (paths.feedback / "broken.jsonl").write_text("{")
    with pytest.raises(ValueError, match="6 malformed rows") as caught:
        read_inputs(stages.files("validate", paths))
    message = str(caught.value)
    assert "data/feedback/broken.jsonl:1: not JSON" in message
    assert "data/feedback/sub/f.jsonl:2: ranks has 1 entries for 2 completions" in message
    assert "data/feedback/sub/f.jsonl:3: ranks" in message
    assert "data/feedback/sub/f.jsonl:4: annotator: Field required" in message
    assert "data/feedback/sub/f.jsonl:5: id 'ok' is at data/feedback/sub/f.jsonl:1 already" in message
    assert "this order is written [1, 2]" in message


def test_feedback_files_of_another_kind_or_twice_are_errors_and_notes_are_not(paths: Paths) -> None:
    """README.md and DVC's pointers are passed over; a CSV, or f.jsonl beside f.jsonl.gz, is not."""
    paths.feedback.mkdir(parents=True)
    for name in ("README.md", "f.jsonl.dvc", ".hidden"):
        (paths.feedback / name).write_text("x")
    assert not read_inputs(stages.files("validate", paths)).feedback
    put(paths.feedback / "f.jsonl", [ranking("a")])
    put(paths.feedback / "f.jsonl.gz", [ranking("a")])
    with pytest.raises(ValueError, match=r"holds f\.jsonl and f\.jsonl\.gz; keep one"):
        read_inputs(stages.files("validate", paths))
    (paths.feedback / "x.csv").write_text("x")
    with pytest.raises(ValueError, match=r"data/feedback/x\.csv: found a \.csv file; write rankings as"):
        read_inputs(stages.files("validate", paths))


def test_missing_raw_data_and_an_unknown_tokenizer_are_clear_errors(paths: Paths, tmp_path: Path) -> None:
    """Each names the place; the tokenizer is asked for only once every row has been read."""
    with pytest.raises(FileNotFoundError, match=r"data/raw/demonstrations\.jsonl: no such file"):
        run(Paths(tmp_path / "empty"), ValidateParams(), MODEL)
    missing = ModelSettings(name=str(tmp_path / "no-model"))
    with pytest.raises(ValueError, match="no-model: the model could not be loaded"):
        run(paths, ValidateParams(), missing)
