"""`nightjar score`: what a file may hold, what comes out, and the figures of the E2E challenge's systems."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.evaluation.scores import Scores, render, score_file
from tasks.files import write_rows

ROWS = [
    {"id": "1", "references": ["A B C D", "a b c d e"], "outputs": {"good": "A B C D", "[bad]": "x"}},
    {"id": "2", "references": ["p q r s"], "outputs": {"good": "p q r s", "[bad]": ""}},
]


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """The scores of a perfect system and a useless one."""
    path = tmp_path_factory.mktemp("scores") / "outputs.jsonl"
    write_rows(path, ROWS)
    return score_file(path)


def test_every_system_gets_every_variant_with_a_signature(scores: Scores) -> None:
    """12 of ROUGE, COCO's, 4 of BLEU, chrF; what copies a reference gets all, what shares nothing gets none."""
    assert scores.rows == 2
    assert len(scores.signatures) == 18
    for figures in scores.values.values():
        assert list(figures) == list(scores.signatures)
    assert scores.values["good"]["rougeL_first"] == scores.values["good"]["coco_rougeL"] == 1.0
    assert scores.values["good"]["sacrebleu_multiref"] == pytest.approx(100.0)
    assert scores.values["good"]["mteval_bleu"] == pytest.approx(1.0)
    assert set(scores.values["[bad]"].values()) == {0.0}


def test_the_rendered_table_holds_systems_figures_and_signatures(scores: Scores) -> None:
    """Nothing is folded or cut short: each name and each signature stands whole on a line."""
    text = render(scores)
    assert text.startswith("2 rows\n")
    assert "100.00" in text
    assert "1.0000" in text
    for name, signature in scores.signatures.items():
        assert any(line.split() == [name, signature] for line in text.splitlines())
        assert sum(name in line.split() for line in text.splitlines()) >= 2
    assert "[bad]" in text
    assert "…" not in text


@pytest.mark.parametrize("field", ["output", "completion"])
def test_a_single_system_is_called_by_its_field_and_gzip_is_read(tmp_path: Path, field: str) -> None:
    """One text per row needs no dict; a .gz file reads as a plain one."""
    path = tmp_path / "one.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as stream:
        stream.write(json.dumps({"references": ["a b c"], field: "a b"}) + "\n")
    # 2 of 2 and of 3 words: F = 4/5.
    assert score_file(path).values[field]["rouge1_max"] == pytest.approx(0.8)


def test_references_may_stand_in_a_file_of_their_own(tmp_path: Path, scores: Scores) -> None:
    """Rows are joined by id, whatever their order; the figures are those of the joined file."""
    write_rows(tmp_path / "outputs.jsonl", [{"id": row["id"], "outputs": row["outputs"]} for row in ROWS])
    write_rows(tmp_path / "refs.jsonl", [{"id": r["id"], "references": r["references"]} for r in ROWS[::-1]])
    assert score_file(tmp_path / "outputs.jsonl", tmp_path / "refs.jsonl") == scores


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"references": ["a"]}, "found no text to score"),
        ({"references": ["a"], "outputs": {}}, "found no text to score"),
        ({"references": ["a"], "outputs": {"s": 3}}, "s is int; give a text"),
        ({"references": [], "outputs": {"s": "a"}}, "give a list of one or more texts"),
        ({"references": "a", "outputs": {"s": "a"}}, "give a list of one or more texts"),
        ({"outputs": {"s": "a"}}, "references is None"),
        ({"references": [" "], "outputs": {"s": "a"}}, "references hold no text"),
        ({"references": ["a"], "outputs": {"t": "a"}}, "give every row the same systems"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    """The second line is at fault, and the error says so and what to do."""
    path = tmp_path / "outputs.jsonl"
    write_rows(path, [{"references": ["a"], "outputs": {"s": "a"}}, row])
    with pytest.raises(ValueError, match=message) as error:
        score_file(path)
    assert str(error.value).startswith(f"{path}:2: ")


GOOD = b'{"references": ["a b"], "output": "a b"}\n'
SQUEEZED = gzip.compress(GOOD * 99, mtime=0)  # every process collects the same tests


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.jsonl.gz", SQUEEZED[: len(SQUEEZED) // 2], "f.jsonl.gz: not a whole gzip file"),
        ("f.jsonl.gz", SQUEEZED[:20] + b"\xff" * 20 + SQUEEZED[40:], "f.jsonl.gz: not a whole gzip file"),
        ("f.jsonl.gz", GOOD, "f.jsonl.gz: not a whole gzip file"),
        ("f.jsonl", SQUEEZED, "f.jsonl: found a gzip file; unpack it, or call it .gz"),
        ("f.jsonl", GOOD + b"[" * 100_000, "f.jsonl:2: not JSON (maximum recursion depth exceeded"),
        ("f.jsonl", GOOD + b'{"n": ' + b"9" * 5000 + b"}", "… has 5000 digits; correct it"),
        ("f.jsonl", b"\xef\xbb\xbf\n", "f.jsonl: the file is empty"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Cut short, damaged, not compressed at all, brackets without end, a number without end, nothing but a mark."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        score_file(tmp_path / name)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Editors of another system write one; the file says the same."""
    path = tmp_path / ("f.jsonl" if pack is bytes else "f.jsonl.gz")
    path.write_bytes(pack(b"\xef\xbb\xbf" + GOOD))
    assert score_file(path).values["output"]["rouge1_first"] == 1.0


def test_other_languages_are_scored_by_their_own_words(tmp_path: Path) -> None:
    """One letter of six is another: F = 5/6 in every variant but Porter's; signatures have the language."""
    path = tmp_path / "outputs.jsonl"
    write_rows(path, [{"references": ["我爱北京天气"], "output": "我爱北京天安"}])
    found = score_file(path, language="auto")
    assert found.values["output"]["rouge1_max"] == found.values["output"]["rougeL_first"] == pytest.approx(5 / 6)
    assert len(found.signatures) == 14
    assert all(text.endswith("|lang:auto=zh") for name, text in found.signatures.items() if name != "chrf")
    assert "_stem" not in render(found).split("signatures")[0]
    with pytest.raises(ValueError, match="found no tokens to score by"):
        score_file(path)


def test_missing_files_and_missing_references_are_named(tmp_path: Path) -> None:
    """A file that is not there, and an id without references in the other file."""
    with pytest.raises(FileNotFoundError, match=r"none\.jsonl: no such file"):
        score_file(tmp_path / "none.jsonl")
    write_rows(tmp_path / "outputs.jsonl", [{"id": "7", "output": "a"}])
    write_rows(tmp_path / "refs.jsonl", [{"id": "8", "references": ["a"]}])
    with pytest.raises(ValueError, match="id 7 has no references in"):
        score_file(tmp_path / "outputs.jsonl", tmp_path / "refs.jsonl")


def test_the_e2e_systems_score_as_the_official_scripts_say() -> None:
    """All 21 systems, every variant of the published scores, to four decimals; needs NIGHTJAR_DATA."""
    folder = os.environ.get("NIGHTJAR_DATA")
    if not folder:
        pytest.skip("NIGHTJAR_DATA is not set; it names a folder with metrics/e2e_outputs_visible.jsonl.gz")
    metrics = Path(folder) / "metrics"
    truth = json.loads((metrics / "e2e_scores_visible.json").read_text(encoding="utf-8"))["scores"]
    found = score_file(metrics / "e2e_outputs_visible.jsonl.gz")
    assert found.rows == 507
    assert found.values.keys() == truth.keys()
    for system, figures in truth.items():
        for name, value in figures.items():
            if name not in ("sys_len", "ref_len"):
                ours = found.values[system][name.replace("_f_", "_")]
                assert ours == pytest.approx(value, abs=5e-5), f"{system} {name}"
