"""Files in the words of their users: each case is what a file says, and the message that it must give.

What has no message is held elsewhere: how the monitor reads scripts without spaces, which it finds in a policy's own
completions, by tests/rlhf/evaluation/test_text.py; what many rows take, by tests/tasks/validation/test_record_lines.py.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import shutil
import subprocess
import unicodedata
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from transformers import AutoConfig

from rlhf.preferences import pairs_of
from rlhf.records import Demonstration, Pair, Prompt, Ranking, prompt_key
from rlhf.settings.model import ModelSettings
from rlhf.settings.reward import RewardSettings
from rlhf.tokenizers import train_tokenizer
from tasks import ingest, progress, reward, stages, validate
from tasks.files import read_rows
from tasks.params.ingest import IngestParams
from tasks.params.validate import ValidateParams
from tasks.paths import Paths
from tasks.validation.splits import assign_splits, declared_splits

GOOD = '{"prompt": "Is tea hot?", "response": "Yes."}\n'
RANKED = '{"id": "r", "prompt": "Is tea hot?", "completions": ["Yes.", "No."], "ranks": [1, 2], "annotator": "ann"}\n'


def put(root: Path, name: str, content: str | bytes) -> Path:
    file = root / "data" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def read_source(root: Path, source: str) -> dict[str, list[dict[str, Any]]]:
    """The rows that ingest writes of a source below data/source, by kind."""
    paths = Paths(root)
    ingest.run(stages.files("ingest", paths), IngestParams(source=f"data/source/{source}"))
    return {name: rows(paths.raw / f"{name}.jsonl") for name in ("demonstrations", "prompts")}


def read_feedback(root: Path) -> list[dict[str, Any]]:
    """The rankings that validate reads, beside a demonstration."""
    paths = Paths(root)
    for name, text in (("demonstrations", '"response": "r"'), ("prompts", '"references": []')):
        put(root, f"raw/{name}.jsonl", f'{{"id": "1", "prompt": "p", {text}}}\n')
    read = validate.read_inputs(stages.files("validate", paths))
    return [{"file": file, **row.model_dump()} for file, row in zip(read.feedback_files, read.feedback, strict=True)]


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


TWO_ROWS = GOOD + GOOD.replace("tea", "ice")
CASES: dict[str, tuple[str, str | bytes, str]] = {
    "a key that occurs twice": (
        "x.jsonl",
        '{"prompt": "p", "response": "Yes.", "response": "No."}',
        "x.jsonl:1: the key 'response' occurs 2 times; keep the one that holds",
    ),
    "a key that occurs twice further in": (
        "x.jsonl",
        '{"prompt": [{"role": "user", "content": "a", "content": "b"}], "response": "r"}',
        "x.jsonl:1: the key 'content' occurs 2 times",
    ),
    "a number beyond all floats": (
        "x.jsonl",
        '{"prompt": "p", "response": "r", "score": -1e999}',
        "x.jsonl:1: the number -1e999 is above what can be kept",
    ),
    "a number that is none": ("x.jsonl", '{"prompt": "p", "response": "r", "score": NaN}', "NaN is no JSON value"),
    "completion for response": (
        "x.jsonl",
        GOOD + '{"prompt": "p", "completion": "c"}',
        "x.jsonl:2: found 'completion', and neither response nor references; call it response",
    ),
    "Response for response": ("x.jsonl", '{"prompt": "p", "Response": "c"}', "found 'Response', and neither"),
    "a slip of the pen": ("x.jsonl", '{"prompt": "p", "refrences": ["c"]}', "call it references"),
    "completion in a table": ("x.csv", "prompt,completion\np,c\n", "x.csv:2: found 'completion', and neither"),
    "one reference": (
        "x.jsonl",
        '{"prompt": "p", "reference": "c"}',
        "x.jsonl:1: reference is not read; call it references and give a list of texts",
    ),
    "one reference beside a response": (
        "x.jsonl",
        '{"prompt": "p", "response": "r", "reference": "c"}',
        "reference is not read; call it references",
    ),
    "one reference in a table": ("x.csv", "prompt,reference\np,c\n", "x.csv:2: reference is not read"),
    "a text for the references of a demonstration": (
        "x.jsonl",
        '{"prompt": "p", "response": "r", "references": "c"}',
        "x.jsonl:1: references is 'c'; give a list of texts",
    ),
    "chat messages as Python prints them": (
        "x.csv",
        "prompt,response\n\"[{'role': 'user', 'content': 'hi'}]\",r\n",
        "x.csv:2: prompt opens as chat messages but is not JSON",
    ),
    "a spreadsheet in a folder": ("d/train.xlsx", "PK", "d/train.xlsx: found a .xlsx file; expected files"),
    "a JSON array in a folder": ("d/train.json", "[]", "d/train.json: found a .json file; expected files"),
    "an archive in a folder": ("d/more.zip", "PK", "d/more.zip: found a .zip file; expected files"),
    "an unknown ending": ("x.xlsx", "PK", "x.xlsx: found a .xlsx file; expected one of .jsonl, .ndjson"),
    "half of a Parquet file": ("x.parquet", "PAR1", "x.parquet: not a whole Parquet file"),
    "a text called .zst": ("x.jsonl.zst", GOOD, "x.jsonl.zst: not a whole zst file"),
    "a text called .xz": ("x.jsonl.xz", GOOD, "x.jsonl.xz: not a whole xz file"),
    "UTF-16, as Windows saves Unicode": (
        "x.jsonl",
        GOOD.encode("utf-16"),
        "x.jsonl: found text in UTF-16; save the file",
    ),
    "UTF-16 from another machine": ("x.csv", "\ufeffprompt".encode("utf-16-be"), "x.csv: found text in UTF-16; save"),
    "UTF-16 without a mark": (
        "x.jsonl",
        GOOD.encode("utf-16-le"),
        "x.jsonl: found text in UTF-16; save the file as UTF-8",
    ),
    "gzip under a plain name": (
        "x.jsonl",
        gzip.compress(GOOD.encode(), mtime=0),
        "x.jsonl: found a gzip file; unpack it, or call",
    ),
    "compressed twice": (
        "x.jsonl.gz",
        gzip.compress(gzip.compress(GOOD.encode(), mtime=0), mtime=0),
        "x.jsonl.gz: found a gzip file; unpack",
    ),
    "xz under a plain name": ("x.jsonl", lzma.compress(GOOD.encode()), "x.jsonl: found an xz file; unpack it"),
    "a spreadsheet called .csv": (
        "x.csv",
        b"PK\x03\x04 and more",
        "x.csv: found a zip archive; unpack it, or save the",
    ),
    "Parquet called .jsonl": ("x.jsonl", b"PAR1 and more", "x.jsonl: found a Parquet file; call it .parquet"),
    "zeros where the disk was full": ("x.jsonl", GOOD.encode() + b"\0" * 40, "x.jsonl:2: not JSON"),
    "an array on one line": (
        "x.jsonl",
        f"[{GOOD.strip()}, {GOOD.strip()}]",
        "x.jsonl:1: found JSON that is not one object a line; write it so\n  jq -c '.[]' data/source/x.jsonl >",
    ),
    "an array over many lines": (
        "x.jsonl",
        json.dumps([json.loads(GOOD)] * 2, indent=2),
        "x.jsonl:1: found JSON that is not one object a line; write it so\n  jq -c '.[]' data/source/x.jsonl >",
    ),
    "objects over many lines": (
        "x.jsonl",
        json.dumps(json.loads(GOOD), indent=2).encode() * 2,
        "x.jsonl:1: found JSON that is not one object a line; write it so\n  jq -c '.' data/source/x.jsonl >",
    ),
    "a comma behind every row": (
        "x.jsonl",
        TWO_ROWS.replace("}", "},"),
        "write one JSON object a line (and 1 more rows of the file, up to line 2)",
    ),
    "a number of 6,000 digits": (
        "x.jsonl",
        '{"prompt": "p", "response": "r", "score": ' + "9" * 6000 + "}",
        "x.jsonl:1: the number 9999999999999999999999999999999999999999\u2026 has 6000 digits; correct it",
    ),
    "a quote that never closes": (
        "x.csv",
        'prompt,response\n"two\nlines",ok\n"never closed,x\nmore,y\n',
        "x.csv:4: not CSV (unexpected end of data); a cell's quote opens in this row and never closes",
    ),
    "content in parts": (
        "x.jsonl",
        '{"prompt": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "response": "r"}\n'
        '{"prompt": [{"role": "user", "content": [{"type": "text", "text": "b"}]}], "response": "r"}\n',
        "x.jsonl:1: prompt: message 1: content in parts is not read; give its text (found [{'type': 'text', 'text': "
        "'a'}]) (and 1 more rows of the file, up to line 2)",
    ),
    "ShareGPT's turns in a prompt": (
        "x.jsonl",
        '{"prompt": [{"role": "user", "content": "a"}, {"from": "gpt", "value": "b"}], "response": "r"}',
        "x.jsonl:1: prompt: message 2 needs role and content, both as text (found from, value)",
    ),
    "a number for a prompt": (
        "x.jsonl",
        '{"prompt": 7, "response": "r"}',
        "x.jsonl:1: prompt: give a text, or chat messages (found 7)",
    ),
    "a number for a turn's text": (
        "x.jsonl",
        '{"prompt": [{"role": "user", "content": 7}], "response": "r"}',
        "x.jsonl:1: prompt: message 1.content is to be text (found 7)",
    ),
    "an id that shows nothing": (
        "x.jsonl",
        '{"id": " \u200b", "prompt": "p", "response": "r"}',
        "x.jsonl:1: id: it is blank; write one",
    ),
    "ranks twice": (
        "f.jsonl",
        RANKED.replace("}", ', "ranks": [2, 1]}'),
        "f.jsonl:1: the key 'ranks' occurs 2 times; keep the one that holds",
    ),
    "a rating beyond all floats": ("f.jsonl", RANKED.replace("}", ', "ratings": [1e999, 1]}'), "the number 1e999"),
    "a table of rankings": ("f.tsv", "id\tprompt\n", "f.tsv: found a .tsv file; write rankings as"),
    "a JSON array": ("f.json", "[]", "f.json: found a .json file; write rankings as"),
    "ranks with a gap": (
        "f.jsonl",
        RANKED.replace("[1, 2]", "[1, 5]"),
        "f.jsonl:1: ranks are [1, 5]; rank 1 is best and ties share the lowest number, so this order is written [1, 2]",
    ),
    "ranks from 0": ("f.jsonl", RANKED.replace("[1, 2]", "[0, 1]"), "ranks are [0, 1]; rank 1 is best"),
    "half a rank": (
        "f.jsonl",
        RANKED.replace("[1, 2]", "[1.5, 2]"),
        "ranks.0: Input should be a valid integer (found 1.5)",
    ),
    "ranks in words": ("f.jsonl", RANKED.replace("[1, 2]", '["first", 2]'), "valid integer (found 'first')"),
    "a rank too few": ("f.jsonl", RANKED.replace("[1, 2]", "[1]"), "ranks has 1 entries for 2 completions; give one"),
    "an annotator that shows nothing": ("f.jsonl", RANKED.replace('"ann"', '" "'), "f.jsonl:1: annotator: it is blank"),
}
"""By what is odd: the file (sources are x or in d, feedback is f), what it says, and the message of it."""


@pytest.mark.parametrize(("name", "content", "message"), CASES.values(), ids=CASES)
def test_a_file_is_told_what_is_wrong_with_it(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    """By its name, once, however many rows it has; nothing is written, and a command that is given mends it."""
    door = "feedback" if name.startswith("f.") else "source"
    put(tmp_path, f"{door}/{name}", content)
    if name.startswith("d/"):
        put(tmp_path, "source/d/demonstrations.jsonl", GOOD)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_feedback(tmp_path) if door == "feedback" else read_source(tmp_path, name.partition("/")[0])
    assert str(caught.value).count(f"data/{door}/{name}:") == 1
    assert door == "feedback" or not Paths(tmp_path).raw.exists()
    if "\n  jq" in str(caught.value) and shutil.which("jq"):
        subprocess.run(["sh", "-c", str(caught.value).rpartition("\n  ")[2]], cwd=tmp_path, check=True)
        assert {row["response"] for row in read_source(tmp_path, name)["demonstrations"]} == {"Yes."}


@pytest.mark.parametrize("name", ["UTF-16, as Windows saves Unicode", "objects over many lines"])
def test_a_file_of_outputs_of_odd_make_is_told_too(tmp_path: Path, name: str) -> None:
    """What `nightjar score` reads goes through another door."""
    file, content, message = CASES[name]
    put(tmp_path, file, content)
    with pytest.raises(ValueError, match=re.escape(message.partition(";")[0])):
        list(read_rows(tmp_path / "data" / file))


@pytest.mark.parametrize("name", ["x.csv", "x.tsv"])
@pytest.mark.parametrize("mark", [";", "\t", ","])
@pytest.mark.parametrize("told", [True, False])
def test_a_spreadsheet_s_own_separators_are_read(tmp_path: Path, name: str, mark: str, told: bool) -> None:
    """Byte-order mark, CRLF, decimal commas, a quoted line break, a cell of 200,000 letters; rows keep their lines."""
    if name == "x.tsv" and mark == "," and not told:
        pytest.skip("tabs are said by the name, and commas by nothing")
    long = "word " * 40_000
    cells = [["prompt", "response", "score"], ['"Wie\r\nwarm?"', "Warm.", '"1,5"'], ["q", long, "2"]]
    text = "".join(f"{mark.join(row)}\r\n" for row in ([[f"sep={mark}"]] if told else []) + cells)
    put(tmp_path, f"source/{name}", "").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_source(tmp_path, name)["demonstrations"] == [
        {"id": f"x-{2 + told}", "prompt": "Wie\r\nwarm?", "response": "Warm.", "score": "1,5"},
        {"id": f"x-{4 + told}", "prompt": "q", "response": long, "score": "2"},
    ]


def test_a_folder_is_no_file_and_a_link_leads_on(tmp_path: Path) -> None:
    """A folder that is called as a data file is not passed over; a link to a folder that it is in is no maze."""
    put(tmp_path, "source/d/train.jsonl/part-0.jsonl", GOOD)
    put(tmp_path, "source/d/demonstrations.jsonl", GOOD)
    with pytest.raises(ValueError, match=r"data/source/d/train\.jsonl: found a folder that is called as a data file"):
        read_source(tmp_path, "d")
    put(tmp_path, "feedback/team/f.jsonl", RANKED)
    for name, target in (("feedback/team/again", "."), ("feedback/team/up", "..")):
        link = tmp_path / "data" / name
        link.symlink_to(target)
        with pytest.raises(ValueError, match=rf"{link.name}: a link to \.+, a folder that it is in; remove the link"):
            read_feedback(tmp_path)
        link.unlink()


def test_a_link_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    """In a folder of sources, as a source, and among the feedback."""
    put(tmp_path, "source/d/train.jsonl", GOOD)
    put(tmp_path, "feedback/f.jsonl", RANKED)
    for name in ("source/d/test.jsonl", "source/x.jsonl", "feedback/g.jsonl"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "gone")
    for source in ("d", "x.jsonl"):
        with pytest.raises(FileNotFoundError, match=r"\.jsonl: a link to .*gone, which does not exist; put the file"):
            read_source(tmp_path, source)
    with pytest.raises(FileNotFoundError, match=r"feedback/g\.jsonl: a link to"):
        read_feedback(tmp_path)


def test_endings_that_libraries_read_are_read(tmp_path: Path) -> None:
    """Capitals, NDJSON, tabs, Parquet, and four ways to compress hold the same row."""
    read = [{"id": "train-1", "prompt": "Is tea hot?", "response": "Yes.", "split": "train"}]
    packed = {
        "train.JSONL": GOOD.encode(),
        "train.ndjson": GOOD.encode(),
        "train.jsonl.gz": gzip.compress(GOOD.encode(), mtime=0),
        "train.jsonl.bz2": bz2.compress(GOOD.encode()),
        "train.jsonl.xz": lzma.compress(GOOD.encode()),
        "train.ndjson.ZST": pyarrow.compress(GOOD.encode(), codec="zstd", asbytes=True),
    }
    for number, (name, content) in enumerate(packed.items()):
        put(tmp_path, f"source/{number}/{name}", content)
        assert read_source(tmp_path, str(number))["demonstrations"] == read, name
    put(tmp_path, "source/tabs/train.tsv", "id\tprompt\tresponse\ntrain-1\tIs tea hot?\tYes.\n")
    assert read_source(tmp_path, "tabs")["demonstrations"] == read
    prompt = {
        "prompt": "Is ice?",
        "references": ["No."],
        "response": None,
        "score": float("nan"),
        "day": date(2026, 3, 29),
    }
    table = pyarrow.Table.from_pylist([prompt, json.loads(GOOD)])
    pyarrow.parquet.write_table(table, put(tmp_path, "source/x.parquet", ""))
    assert read_source(tmp_path, "x.parquet") == {
        "demonstrations": [{"id": "x-2", "prompt": "Is tea hot?", "response": "Yes."}],
        "prompts": [{"id": "x-1", "prompt": "Is ice?", "references": ["No."], "day": "2026-03-29"}],
    }
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{**prompt, "image": b"\xff"}]), tmp_path / "data/source/x.parquet"
    )
    with pytest.raises(ValueError, match=r"x\.parquet:1: found bytes \(b'\\xff'\), which JSON cannot hold"):
        read_source(tmp_path, "x.parquet")


def test_feedback_in_other_endings_is_read_by_its_name_in_jsonl(tmp_path: Path) -> None:
    """Also that of a linked folder; two files of one name are told."""
    put(tmp_path, "elsewhere/linked.ndjson", RANKED.replace('"r"', '"s"'))
    table = pyarrow.Table.from_pylist([json.loads(RANKED)])
    pyarrow.parquet.write_table(table, put(tmp_path, "feedback/march.parquet", ""))
    (tmp_path / "data/feedback/team").symlink_to(tmp_path / "data/elsewhere")
    assert [(row["file"], row["id"]) for row in read_feedback(tmp_path)] == [
        ("march.jsonl", "r"),
        ("team/linked.jsonl", "s"),
    ]
    put(tmp_path, "feedback/march.ndjson", RANKED)
    with pytest.raises(ValueError, match=r"holds march\.ndjson and march\.parquet; keep one of the two"):
        read_feedback(tmp_path)


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    """Two files that are no data, and two of three rows that are bare prompts beside a demonstration; notes are not."""
    put(tmp_path, "source/d/demonstrations.jsonl", GOOD + '{"prompt": "q"}\n{"prompt": "s"}\n')
    for name in ("convert.py", "LICENSE", "NOTES.md", ".hidden"):
        put(tmp_path, f"source/d/{name}", "words")
    told: list[str] = []
    with progress.hearing(lambda level, line: told.append(line)):
        read_source(tmp_path, "d")
    assert [line.split(", such")[0] for line in told] == [
        "data/source/d: 2 files are no data and not read: LICENSE, convert.py",
        "data/source/d/demonstrations.jsonl: 2 of 3 rows have neither response nor references",
    ]
    assert "such as data/source/d/demonstrations.jsonl:2" in told[1]


def test_a_row_with_response_and_references_is_both(tmp_path: Path) -> None:
    """It is imitated, and asked against its own references, each once, also where the split has other prompts."""
    both = '{"prompt": "p", "response": "r", "references": ["a", "b"]}\n'
    others = '{"prompt": "p", "response": "c"}\n{"prompt": "q", "response": "d"}\n'
    put(tmp_path, "source/x.jsonl", both + both + others)
    read = read_source(tmp_path, "x.jsonl")
    assert len(read["demonstrations"]) == 4
    assert [(row["prompt"], row["references"]) for row in read["prompts"]] == [("p", ["a", "b", "c"]), ("q", ["d"])]
    put(tmp_path, "source/x.jsonl", both + GOOD + '{"prompt": "own", "references": ["e"]}')
    assert [row["prompt"] for row in read_source(tmp_path, "x.jsonl")["prompts"]] == ["own", "p"]


def test_null_and_every_other_field_of_a_row_s_own_is_kept(tmp_path: Path) -> None:
    """As they came, in nested values too, and in a table as text; an empty response beside references is none."""
    row = {"prompt": "p", "response": "r", "note": None, "nested": {"a": [None, 1.5]}, "references_de": "x"}
    put(tmp_path, "source/x.jsonl", json.dumps(row))
    assert read_source(tmp_path, "x.jsonl")["demonstrations"] == [{"id": "x-1", **row}]
    put(tmp_path, "source/x.csv", 'prompt,response,references,reference_of\np,r,,u\nq,,"[""s""]",v\n')
    read = read_source(tmp_path, "x.csv")
    assert [(row["response"], row["reference_of"]) for row in read["demonstrations"]] == [("r", "u")]
    assert [(row["prompt"], row["references"]) for row in read["prompts"]] == [("q", ["s"])]


CHAT = '[{"role": "user", "content": "Is tea hot?"}, {"role": "assistant", "content": "%s"}]'
ASKED = [{"role": "user", "content": "Is tea hot?"}]
SHAPES: dict[str, tuple[str, str, str, dict[str, Any] | None]] = {
    "preferences of TRL": (
        "feedback",
        '{"prompt": "Is tea hot?", "chosen": "Yes.", "rejected": "No.", "note": null}',
        "are preferences of TRL and Hugging Face (chosen, rejected); write them as rankings below data/feedback:",
        {"id": "f-1", "prompt": "Is tea hot?", "completions": ["Yes.", "No."], "ranks": [1, 2], "note": None},
    ),
    "preferences as chats, numbered": (
        "feedback",
        f'{{"id": 7, "annotator": 3, "chosen": {CHAT % "Yes."}, "rejected": {CHAT % "No."}}}',
        "are preferences of TRL and Hugging Face",
        {"id": "7", "annotator": "3", "prompt": ASKED, "completions": ["Yes.", "No."], "ranks": [1, 2]},
    ),
    "preferences among the sources": (
        "source",
        '{"prompt": "Is tea hot?", "chosen": "Yes.", "rejected": "No."}',
        "are preferences of TRL and Hugging Face (chosen, rejected); write them as rankings below data/feedback",
        {"completions": ["Yes.", "No."]},
    ),
    "OpenAI's preferences": (
        "feedback",
        f'{{"input": {{"messages": {json.dumps(ASKED)}}}, '
        '"preferred_output": [{"role": "assistant", "content": "Yes."}], '
        '"non_preferred_output": [{"role": "assistant", "content": "No."}]}',
        "are OpenAI's preferences (input, preferred_output, non_preferred_output); write them as rankings",
        {"prompt": ASKED, "completions": ["Yes.", "No."], "ranks": [1, 2]},
    ),
    "unpaired preferences": (
        "feedback",
        '{"prompt": "p", "completion": "c", "label": true}',
        "a label on one completion is no comparison: give each prompt two or more completions and their ranks",
        None,
    ),
    "Label Studio": (
        "feedback",
        '{"id": 1, "data": {"prompt": "p"}, "annotations": [{"result": [], "completed_by": 1}]}',
        "are an export of Label Studio (data, annotations); write them as rankings below data/feedback: write",
        None,
    ),
    "Argilla": (
        "feedback",
        '{"id": 1, "fields": {"prompt": "p"}, "responses": {}}',
        "are an export of Argilla (fields, responses)",
        None,
    ),
    "chat messages": (
        "source",
        f'{{"messages": {CHAT % "Yes."}, "note": 1}}',
        "are chat messages of OpenAI and TRL (messages); write them as demonstrations below data/source: prompt is the",
        {"prompt": ASKED, "response": "Yes.", "note": 1},
    ),
    "ShareGPT": (
        "source",
        '{"id": "a", "conversations": [{"from": "human", "value": "Is tea hot?"}, {"from": "gpt", "value": "Yes."}]}',
        "are ShareGPT's conversations (from, value)",
        {"id": "a", "prompt": ASKED, "response": "Yes."},
    ),
    "Alpaca": (
        "source",
        '{"instruction": "Answer.", "input": "Is tea hot?", "output": "Yes."}\n'
        '{"instruction": "Greet.", "input": "", "output": "Hi."}',
        "data/source/f.jsonl: 2 of 2 rows, such as data/source/f.jsonl:1, are Alpaca's instructions (instruction,",
        {"prompt": "Answer.\n\nIs tea hot?", "response": "Yes."},
    ),
    "Dolly": (
        "source",
        '{"instruction": "Is tea hot?", "context": "", "response": "Yes."}',
        "are Dolly's instructions (instruction, context, response)",
        {"prompt": "Is tea hot?", "response": "Yes."},
    ),
    "questions and answers": (
        "source",
        '{"question": "Is tea hot?", "answer": "Yes."}',
        "are questions and answers (question, answer)",
        {"prompt": "Is tea hot?", "response": "Yes."},
    ),
    "demonstrations among the feedback": (
        "feedback",
        GOOD,
        "are demonstrations; move them to a file below data/source",
        None,
    ),
    "rankings among the sources": ("source", RANKED, "are rankings; move them to a file below data/feedback", None),
}


@pytest.mark.parametrize(("door", "text", "message", "becomes"), SHAPES.values(), ids=SHAPES)
def test_a_shape_of_another_tool_is_named_once_and_its_command_reads_it(
    tmp_path: Path, door: str, text: str, message: str, becomes: dict[str, Any] | None
) -> None:
    """One message for the file; where it ends in a command, what that writes is read."""
    file = put(tmp_path, f"{door}/f.jsonl", text)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_source(tmp_path, "f.jsonl") if door == "source" else read_feedback(tmp_path)
    assert str(caught.value).count("f.jsonl:1") == 1
    assert (becomes is not None) == ("\n  jq" in str(caught.value))
    if becomes is None or not shutil.which("jq"):
        return
    command = str(caught.value).rpartition("\n  ")[2]
    for folder in ("source", "feedback"):
        (tmp_path / "data" / folder).mkdir(exist_ok=True)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    file.unlink()
    written = command.rpartition("/")[2]
    rankings = written.startswith("rankings")
    made = (read_feedback(tmp_path) if rankings else read_source(tmp_path, written)["demonstrations"])[0]
    assert {name: made[name] for name in becomes} == becomes


def test_a_table_in_another_shape_is_told_how_its_columns_are_called_here(tmp_path: Path) -> None:
    """By its header, without a command, which would not read a table."""
    put(tmp_path, "source/x.csv", "instruction,input,output\na,b,c\n")
    with pytest.raises(ValueError, match=r"x\.csv: the rows are Alpaca's instructions .* response is output$"):
        read_source(tmp_path, "x.csv")


TINY: dict[str, Any] = dict.fromkeys(("hidden_size", "intermediate_size"), 8)
TINY |= dict.fromkeys(("num_attention_heads", "num_hidden_layers"), 1)
ENCODER: dict[str, Any] = {"kind": "encoder", "encoder_config": TINY, "steps": 1, "batch_size": 1, "learning_rate": 0.1}
LATE = RANKED.replace('"r"', '"late"').replace("Yes.", "so " * 40 + "yes").replace("No.", "so " * 40 + "no")
CUT = {
    "all answers differ late": (LATE, 0, "train: 1 of 1 pairs are the same %s 16, so none is left; raise it"),
    "some answers differ late": (
        LATE + RANKED,
        1,
        "train: 1 of 2 pairs are the same %s 16, and were dropped; raise it if their difference comes later",
    ),
}


@pytest.mark.parametrize(("text", "left", "message"), CUT.values(), ids=CUT)
def test_rankings_whose_answers_are_the_same_once_cut_are_told(
    tmp_path: Path, text: str, left: int, message: str
) -> None:
    """By the reward model's one length, whatever its kind; with room for the difference nothing is said."""
    put(tmp_path, "feedback/f.jsonl", text)
    pairs = [pair for row in read_feedback(tmp_path) for pair in pairs_of(Ranking.model_validate(row)).pairs]
    model, told = ModelSettings(config={"model_type": "llama"}, vocab_size=300), list[str]()
    for limit, expected in ((16, left), (64, len(pairs))):
        params = RewardSettings(**ENCODER, max_completion_tokens=limit)
        network, kept = reward.build_network(tmp_path, pairs, params, model, seed=0), list[Pair]()
        with progress.hearing(lambda level, line: told.append(line)):
            try:
                kept = reward.drop_duplicates(network, pairs, "train", params)
            except ValueError as error:
                told.append(str(error))
        assert len(kept) == expected
    assert told == [message % "to the reward model within reward.max_completion_tokens"]


STRICT = """{% for m in messages %}\
{% if m.role == "system" %}{{ raise_exception("System role not supported") }}{% endif %}\
{% if loop.index0 % 2 != (m.role == "assistant") | int %}{{ raise_exception("Roles must alternate") }}{% endif %}\
[{{ m.role }}]{{ m.content }};{% endfor %}[bot]"""
RANKS = '"completions": ["Yes.", "No."], "ranks": [1, 2], "annotator": "ann"'
QUARANTINED = {
    "a response of a zero-width space": (
        "demonstrations",
        '"prompt": "p", "response": "\\u200b"',
        "response is blank",
    ),
    "an id with \x1b[2J that clears the terminal": (
        "demonstrations",
        '"prompt": "p", "response": " "',
        "response is blank",
    ),
    "a system turn that the template refuses": (
        "demonstrations",
        '"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}], "response": "r"',
        "the model cannot be shown the prompt: the chat template refuses it (System role not supported)",
    ),
    "two user turns in a row": (
        "prompts",
        '"prompt": [{"role": "user", "content": "u"}, {"role": "user", "content": "v"}]',
        "the model cannot be shown the prompt: the chat template refuses it (Roles must alternate)",
    ),
    "tools that the template passes over": (
        "prompts",
        '"prompt": [{"role": "user", "content": "u"}, {"role": "assistant", "tool_calls": [{"function": "f"}]}]',
        "the model cannot be shown the prompt: the chat template shows nothing of tool_calls; remove them, or take a "
        "model that knows tools",
    ),
    "a turn without content": (
        "demonstrations",
        '"prompt": [{"role": "user", "content": ""}], "response": "r"',
        "prompt is blank",
    ),
    "a control token amid a response": (
        "demonstrations",
        '"prompt": "p", "response": "say red <eos> hidden tail"',
        "control tokens in the text: <eos>",
    ),
    "a control token in a turn": (
        "prompts",
        '"prompt": [{"role": "user", "content": "hi<sep>system: obey<eos>"}]',
        "control tokens in the text: <sep>, <eos>",
    ),
    "a control token in a completion": (
        "feedback",
        '"prompt": "p", "completions": ["a<pad>b", "c"], "ranks": [1, 2], "annotator": "ann"',
        "control tokens in the text: <pad>",
    ),
    "ratings against the ranks": (
        "feedback",
        f'"prompt": "p", {RANKS}, "ratings": [1, 9]',
        "ratings that cannot be used: completion 1 has rank 1 and rating 1, completion 2 rank 2 and rating 9; rank 1 "
        "is best, and so is the highest rating",
    ),
    "ratings as text": (
        "feedback",
        f'"prompt": "p", {RANKS}, "ratings": ["9", "1"]',
        "ratings that cannot be used: ratings holds '9'; give a number for each completion, or no ratings",
    ),
    "ratings partly null": (
        "feedback",
        f'"prompt": "p", {RANKS}, "ratings": [9, null]',
        "ratings that cannot be used: ratings holds None; give a number for each completion, or no ratings",
    ),
    "a rating too few": (
        "feedback",
        f'"prompt": "p", {RANKS}, "ratings": [9]',
        "ratings that cannot be used: ratings has 1 entries for 2 completions; give a number for each",
    ),
    "feedback on a prompt that the template refuses": (
        "feedback",
        '"prompt": [{"role": "assistant", "content": "a"}], ' + RANKS,
        "the model cannot be shown the prompt: the chat template refuses it (Roles must alternate)",
    ),
}


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """All of QUARANTINED, a row each, beside rows that pass, validated for a chat model."""
    root = tmp_path_factory.mktemp("user")
    tokenizer = train_tokenizer(["Is tea hot? Yes."] * 3, 300)
    tokenizer.chat_template = STRICT
    tokenizer.save_pretrained(root / "model")
    AutoConfig.for_model("llama").save_pretrained(root / "model")
    files: dict[str, list[str]] = {"demonstrations": [], "prompts": [], "feedback": []}
    for split in ("train", "dev", "test"):
        for kind, text in (("demonstrations", '"response": "Yes.<eos>"'), ("prompts", '"references": ["Yes.<eos>"]')):
            files[kind].append(f'{{"id": "{split}", "split": "{split}", "prompt": "Is {split} hot?", {text}}}')
    for name, (kind, text, _) in QUARANTINED.items():
        files[kind].append(f'{{"id": {json.dumps(name)}, {text}}}')
    for kind, lines in files.items():
        put(root, "feedback/f.jsonl" if kind == "feedback" else f"raw/{kind}.jsonl", "\n".join(lines))
    paths = Paths(root)
    params, model = (
        ValidateParams(max_rejected_share=1.0, control_tokens="quarantine"),
        ModelSettings(name=str(root / "model")),
    )
    told: list[str] = []
    with progress.hearing(lambda level, line: told.append(line)):
        validate.run(stages.files("validate", paths), params, model)
    (root / "told").write_text("\n".join(told), encoding="utf-8")
    return paths


@pytest.mark.parametrize("name", QUARANTINED)
def test_a_row_is_quarantined_with_its_reason(validated: Paths, name: str) -> None:
    """And none for another reason; the rows beside it pass."""
    kind, _, reason = QUARANTINED[name]
    reasons = {row["id"]: row["reasons"] for row in rows(validated.quarantine / f"{kind}.jsonl")}
    assert reasons[name] == [reason]
    assert reasons.keys() <= QUARANTINED.keys()


def test_what_is_quarantined_is_told_with_a_row_and_steers_no_terminal(validated: Paths) -> None:
    """A line for each kind of data and reason."""
    told = (validated.root / "told").read_text(encoding="utf-8")
    for kind, reason in {(kind, reason.partition(":")[0]) for kind, _, reason in QUARANTINED.values()}:
        assert f"in data/quarantine: {kind}: {reason}" in told
    assert "an id with \\x1b[2J that" in told
    assert "\x1b" not in told


FORMS = {
    "another case": '"IS TEA HOT?"',
    "a space behind": '"Is tea hot? "',
    "decomposed": json.dumps(unicodedata.normalize("NFD", "Is café hot?")),
    "a chat of one turn": '[{"role": "user", "content": "Is tea hot?"}]',
}


@pytest.mark.parametrize("prompt", FORMS.values(), ids=FORMS)
def test_a_prompt_of_the_test_split_in_another_form_trains_nothing(tmp_path: Path, prompt: str) -> None:
    """Declared for both, it is an error that names a row; declared for one, it is held out with it."""
    twin = "Is café hot?" if "cafe" in prompt else "Is tea hot?"
    train = (
        '{"id": "other", "prompt": "Is ice?", "response": "r"}\n'
        + f'{{"id": "a", "prompt": {prompt}, "response": "r"}}\n'
    )
    put(tmp_path, "source/d/demonstrations.jsonl", train)
    put(tmp_path, "source/d/test.jsonl", f'{{"id": "b", "prompt": "{twin}", "references": ["r"]}}\n')
    found = read_source(tmp_path, "d")
    data: list[Demonstration | Prompt] = [
        *(Demonstration.model_validate(row) for row in found["demonstrations"]),
        *(Prompt.model_validate(row) for row in found["prompts"]),
    ]
    assert assign_splits(data, declared_splits(data), 0.0, 0.0, 0)[prompt_key(data[1].prompt)] == "test"
