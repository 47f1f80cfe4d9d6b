"""The ingest stage writes all of the data or nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf.records import Demonstration, Prompt
from tasks import ingest, stages
from tasks.ingest import derive_prompts
from tasks.params.ingest import IngestParams
from tasks.paths import Paths


def run(paths: Paths, params: IngestParams) -> dict[str, float]:
    """The stage on a workspace's files."""
    return ingest.run(stages.files("ingest", paths), params)


def write(root: Path, name: str, rows: list[dict[str, Any]]) -> Paths:
    file = root / "data" / "source" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Paths(root)


def raw(paths: Paths, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (paths.raw / f"{name}.jsonl").read_text().splitlines()]


def contents(paths: Paths) -> dict[str, bytes]:
    """All that ingest wrote, by its path below data/raw."""
    found = (path for path in paths.raw.rglob("*") if path.is_file())
    return {path.relative_to(paths.raw).as_posix(): path.read_bytes() for path in found}


def demonstration(number: int, prompt: object, **fields: object) -> Demonstration:
    row = {"id": f"d{number}", "prompt": prompt, "response": f"r{number}", **fields}
    return Demonstration.model_validate(row)


def test_the_builtin_corpus_is_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    """Two workspaces, one seed: equal files; another seed: other files."""
    written = []
    for number, seed in enumerate((1, 1, 2)):
        paths = Paths(tmp_path / str(number))
        params = IngestParams(demonstrations=30, prompts=20, seed=seed)
        assert run(paths, params) == {"demonstrations": 30, "prompts": 20}
        written.append([(paths.raw / f"{name}.jsonl").read_bytes() for name in ("demonstrations", "prompts")])
    assert written[0] == written[1]
    assert written[0][0] != written[2][0]


def test_a_source_of_demonstrations_alone_asks_their_prompts_with_their_responses(tmp_path: Path) -> None:
    """Two demonstrations of "p" and one of "q" give two prompts, with two references and one."""
    rows = [{"prompt": text, "response": f"r{number}", "note": 1} for number, text in enumerate("ppq")]
    paths = write(tmp_path, "x.jsonl", rows)
    assert run(paths, IngestParams(source="data/source/x.jsonl")) == {"demonstrations": 3, "prompts": 2}
    assert raw(paths, "demonstrations")[0] == {"id": "x-1", "prompt": "p", "response": "r0", "note": 1}
    assert raw(paths, "prompts") == [
        {"id": "x-1-prompt", "prompt": "p", "references": ["r0", "r1"]},
        {"id": "x-3-prompt", "prompt": "q", "references": ["r2"]},
    ]


def test_a_folder_with_train_demonstrations_and_held_out_prompts_gets_train_prompts(tmp_path: Path) -> None:
    """The held-out prompts stay as they are, and the distinct training prompts are added."""
    write(tmp_path, "s/train.jsonl", [{"prompt": text, "response": "r"} for text in "ppq"])
    write(tmp_path, "s/dev.jsonl", [{"prompt": "d", "references": ["e"]}])
    paths = write(tmp_path, "s/test.jsonl", [{"prompt": "t", "references": ["u", "v"]}])
    assert run(paths, IngestParams(source="data/source/s")) == {"demonstrations": 3, "prompts": 4}
    found = [(row["prompt"], row["split"], len(row["references"])) for row in raw(paths, "prompts")]
    assert found == [("d", "dev", 1), ("t", "test", 2), ("p", "train", 2), ("q", "train", 1)]


def test_given_prompts_are_not_added_to_where_they_cover_the_split() -> None:
    """A prompt without a split is one to train on, so nothing is derived; a dev demonstration is asked."""
    given = [Prompt(id="p", prompt="ask")]
    assert derive_prompts([demonstration(1, "other")], given) == []
    derived = derive_prompts([demonstration(1, "other"), demonstration(2, "held", split="dev")], given)
    assert [(row.id, row.model_extra) for row in derived] == [("d2-prompt", {"split": "dev"})]


def test_a_blank_response_does_not_become_a_reference() -> None:
    """The row's defect is quarantined later; the prompt keeps its good reference."""
    rows = [demonstration(1, "p", response=" "), demonstration(2, "p")]
    assert derive_prompts(rows, [])[0].references == ["r2"]


def test_chat_prompts_are_one_prompt_when_their_turns_are_the_same() -> None:
    """Two demonstrations of the same messages are asked once."""
    chat = [{"role": "user", "content": "hi"}]
    rows = [demonstration(number, chat) for number in (1, 2)]
    derived = derive_prompts(rows, [])
    assert [row.references for row in derived] == [["r1", "r2"]]


def test_a_made_prompt_id_that_is_taken_is_an_error() -> None:
    """Prompts would share an id otherwise."""
    with pytest.raises(ValueError, match="prompt id 'd1-prompt' is also made"):
        derive_prompts(
            [demonstration(1, "p")],
            [Prompt.model_validate({"id": "d1-prompt", "prompt": "t", "split": "test"})],
        )


def test_the_limit_keeps_a_seeded_choice_in_the_source_s_order(tmp_path: Path) -> None:
    """Five of forty, not simply the first five, and the same five for the same seed."""
    rows = [{"id": f"{number:02d}", "prompt": f"p{number}", "response": "r"} for number in range(40)]
    paths = write(tmp_path, "x.jsonl", rows)
    chosen = []
    for seed in (0, 0, 1):
        run(paths, IngestParams(source="data/source/x.jsonl", limit=5, seed=seed))
        chosen.append([row["id"] for row in raw(paths, "demonstrations")])
        assert len(raw(paths, "prompts")) == 5
    assert chosen[0] == chosen[1] == sorted(chosen[0]) != chosen[2]
    assert chosen[0] != [f"{number:02d}" for number in range(5)]


def test_general_demonstrations_change_nothing_but_their_own_file(tmp_path: Path) -> None:
    """The builtin ones are the same bytes for a seed; once the param is null again, no stale file stays."""
    paths, params = Paths(tmp_path), IngestParams(demonstrations=30, prompts=20, limit=12, seed=1)
    run(paths, params)
    before = contents(paths)
    assert set(before) == {"demonstrations.jsonl", "prompts.jsonl"}
    written = []
    for seed in (1, 1, 2):
        general = params.model_copy(update={"general": "builtin", "seed": seed})
        assert run(paths, general) == {"demonstrations": 12, "prompts": 20, "general": 12}
        written.append(contents(paths))
    assert written[0] == written[1]
    assert written[0]["general.jsonl"] != written[2]["general.jsonl"]
    assert written[0].items() >= before.items()
    run(paths, params)
    assert contents(paths) == before


def test_general_demonstrations_are_read_as_the_others_are(tmp_path: Path) -> None:
    """A folder with splits of its own, whose rows keep them and whatever else they carry."""
    write(tmp_path, "others/train.jsonl", [{"prompt": "p", "response": "r", "note": 1}])
    paths = write(tmp_path, "others/test.jsonl", [{"prompt": "q", "response": "s"}])
    params = IngestParams(demonstrations=5, prompts=20, general="data/source/others")
    assert run(paths, params)["general"] == 2
    assert raw(paths, "general") == [
        {"id": "test-1", "prompt": "q", "response": "s", "split": "test"},
        {"id": "train-1", "prompt": "p", "response": "r", "note": 1, "split": "train"},
    ]


def test_what_people_brought_is_kept_as_it_was(tmp_path: Path) -> None:
    """The very files that the params name and all feedback, so that DVC versions them; notes and other files are not.

    What was kept of an earlier source goes.
    """
    write(tmp_path, "s/train.jsonl", [{"prompt": "p", "response": "r"}])
    write(tmp_path, "s/below/other.jsonl", [{"prompt": "p", "response": "r"}])
    write(tmp_path, "unnamed.jsonl", [{"prompt": "p", "response": "r"}])
    (tmp_path / "data/source/s/NOTES.md").write_text("words")
    elsewhere = tmp_path / "linked.jsonl"
    elsewhere.write_text('{"prompt": "g", "response": "h"}\n')
    (tmp_path / "data/source/general.jsonl").symlink_to(elsewhere)
    paths = write(tmp_path, "../feedback/march/ranks.jsonl", [{"id": "any", "text": "validate checks it, not ingest"}])
    (paths.feedback / "README.md").write_text("words")
    (paths.feedback / "more.jsonl.gz").write_bytes(b"as it is")
    run(paths, IngestParams(source="data/source/s/../s", general="data/source/general.jsonl"))
    kept = {name.removeprefix("received/"): held for name, held in contents(paths).items() if "received" in name}
    assert kept == {
        "source/s/train.jsonl": (paths.source / "s/train.jsonl").read_bytes(),
        "source/general.jsonl": elsewhere.read_bytes(),
        "feedback/march/ranks.jsonl": (paths.feedback / "march/ranks.jsonl").read_bytes(),
        "feedback/more.jsonl.gz": b"as it is",
    }
    assert not (paths.received / "source/general.jsonl").is_symlink()
    shutil.rmtree(paths.feedback)
    run(paths, IngestParams(source="builtin", demonstrations=5, prompts=20))
    assert set(contents(paths)) == {"demonstrations.jsonl", "prompts.jsonl"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"prompt": "p", "response": "r"}, {"prompt": "q", "references": ["s"]}],
            "x.jsonl: 1 rows, such as x-2, have no",
        ),
        ([{"prompt": 3, "response": "r"}], "x.jsonl:1: prompt"),
    ],
)
def test_general_rows_that_are_no_demonstrations_stop_the_stage(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    """Nothing is written, the main data neither."""
    paths = write(tmp_path, "x.jsonl", rows)
    with pytest.raises(ValueError, match=message):
        run(paths, IngestParams(demonstrations=5, prompts=20, general="data/source/x.jsonl"))
    assert not paths.raw.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"data/source/x\.jsonl: the file is empty"),
        ('{"prompt": "p", "response": "r"}\n{"prompt": ', r"data/source/x\.jsonl:2: not JSON"),
        ('{"prompt": 3, "response": "r"}', r"data/source/x\.jsonl:1: prompt"),
        (
            '{"id": "a", "prompt": "p", "response": "r"}\n' * 2,
            r"x\.jsonl:2: id 'a' is at data/source/x\.jsonl:1",
        ),
        ('{"prompt": "p", "references": []}', r"no row has a response"),
    ],
)
def test_a_malformed_source_stops_the_stage_and_leaves_the_old_data(tmp_path: Path, text: str, message: str) -> None:
    """The error names file, line and reason; what an earlier night wrote is untouched."""
    paths = write(tmp_path, "good.jsonl", [{"prompt": "p", "response": "old"}])
    run(paths, IngestParams(source="data/source/good.jsonl"))
    before = contents(paths)
    assert set(before) == {"demonstrations.jsonl", "prompts.jsonl", "received/source/good.jsonl"}
    (paths.source / "x.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        run(paths, IngestParams(source="data/source/x.jsonl"))
    assert contents(paths) == before


def test_all_malformed_rows_of_all_files_are_reported_together(tmp_path: Path) -> None:
    """One bad line in each of two files: one error naming both."""
    write(tmp_path, "s/train.jsonl", [{"prompt": "p", "response": 1}])
    paths = write(tmp_path, "s/test.jsonl", [{"prompt": "p", "references": "no list"}])
    with pytest.raises(ValueError, match="2 malformed rows") as caught:
        run(paths, IngestParams(source="data/source/s"))
    assert "s/train.jsonl:1: response" in str(caught.value)
    assert "s/test.jsonl:1: references" in str(caught.value)
    assert not paths.raw.exists()
