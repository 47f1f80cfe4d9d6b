"""Suites run as checkpoints of Great Expectations; failures come back by level with the rows at fault."""

from __future__ import annotations

import gc
import re
import weakref
from dataclasses import replace
from pathlib import Path

import pandas as pd

from rlhf.records import Demonstration, Pair, Ranking, prompt_key
from tasks.params.validate import ValidateParams
from tasks.validation.expectations import check_table
from tasks.validation.frames import damage_in, demonstration_frame, feedback_frame, pair_frame
from tasks.validation.lengths import Lengths
from tasks.validation.pair_suite import pair_checks
from tasks.validation.record_lines import AT_ONCE
from tasks.validation.splits import declared_splits, twins
from tasks.validation.suites import demonstration_checks, feedback_checks


def count_words(text: str) -> int:
    """Words and punctuation marks."""
    return len(re.findall(r"\w+|[^\w\s]", text))


WORDS = Lengths("words", lambda prompt: count_words(prompt_key(prompt)), lambda texts: list(map(count_words, texts)))


def demonstrations(rows: list[dict[str, str]]) -> pd.DataFrame:
    records = [
        Demonstration.model_validate({"id": f"d{number}", "prompt": f"p{number}", "response": "fine", **row})
        for number, row in enumerate(rows)
    ]
    return demonstration_frame(records, declared_splits(records), twins(records), WORDS)


def test_each_bad_row_is_named_with_all_its_reasons_and_good_rows_with_none(tmp_path: Path) -> None:
    """Rows 1, 5 and 6 are blank, 2 is too long, 3 damaged and too long; 0 and 4 pass."""
    rows = [
        {},
        {"response": " \n"},
        {"response": "a b c d"},
        {"response": "CafÃ© a b c"},
        {"response": "Café"},
        {"response": "\u200b"},
        {"response": "\u00a0\ufeff"},
    ]
    params = ValidateParams(max_response_tokens=3)
    verdict = check_table(demonstrations(rows), "demonstrations", demonstration_checks(params, 9), tmp_path)
    assert verdict.reasons == {
        1: ["response is blank"],
        2: ["response tokens above 3: 4"],
        3: [
            "response tokens above 3: 5",
            "encoding damage: response: UTF-8 read as another encoding",
        ],
        5: ["response is blank"],
        6: ["response is blank"],
    }
    assert verdict.at("error") == []


def test_double_ids_and_prompts_in_two_splits_are_errors_that_name_the_rows(tmp_path: Path) -> None:
    """Rows 0 and 1 share an id; the prompt of rows 2 and 3 is declared train and test."""
    rows = [{"id": "x"}, {"id": "x"}, {"prompt": "q", "split": "train"}, {"prompt": "q", "split": "test"}]
    checks = demonstration_checks(ValidateParams(), 9)
    verdict = check_table(demonstrations(rows), "demonstrations", checks, tmp_path)
    assert [(failure.check.kind, failure.rows) for failure in verdict.at("error")] == [
        ("ExpectColumnValuesToBeUnique", [0, 1]),
        ("ExpectColumnValuesToBeInSet", [2, 3]),
    ]
    line = verdict.lines("error")[1]
    assert "the prompt is in more than one split" in line
    assert "found in 2 of 4 rows, such as d2 ('test, train'); d3" in line
    assert "to do: keep it in one split" in line
    assert verdict.reasons == {}


def test_the_data_docs_keep_every_suite_and_only_its_latest_run(tmp_path: Path) -> None:
    """Two suites, the first run twice: the index lists both, with one page of results each."""
    frame = demonstrations([{}])
    checks = demonstration_checks(ValidateParams(), 9)
    for suite in ("first", "second", "first"):
        docs = check_table(frame, suite, checks, tmp_path / "docs").docs
    index = docs.read_text(encoding="utf-8")
    for suite in ("first", "second"):
        assert len(list((tmp_path / "docs" / "validations" / suite).rglob("*.html"))) == 1
        assert f"validations/{suite}/" in index


def test_feedback_is_warned_about_ties_few_annotators_empty_texts_and_tested_prompts(tmp_path: Path) -> None:
    """Four of six couples are tied (.67 > .6); one person ranked each item; one completion is empty."""
    rows = [
        {"completions": ["a", "b", "c"], "ranks": [1, 1, 1], "prompt": "p"},
        {"completions": ["a", "", "c"], "ranks": [1, 1, 3], "prompt": "q"},
    ]
    rankings = [
        Ranking.model_validate({"id": f"r{number}", "annotator": "ann", **row}) for number, row in enumerate(rows)
    ]
    frame = feedback_frame(rankings, ["f.jsonl"] * 2, {"q": "test", "p": "train"}, WORDS)
    verdict = check_table(frame, "feedback", feedback_checks(ValidateParams(min_annotators=2), 9), tmp_path)
    assert verdict.at("error") == []
    assert {failure.check.column: failure.rows for failure in verdict.at("warning")} == {
        "empty_completions": [1],
        "tie_share": [],
        "annotators": [0, 1],
        "split_of_prompt": [1],
    }
    assert any("found 0.6667, expected 0.6" in line for line in verdict.lines("warning"))


def test_pairs_of_one_text_and_prompts_in_two_splits_are_errors(tmp_path: Path) -> None:
    """Pair 0 repeats its text; "q" stands in train and test; the judge shares "p" with train rightly."""
    rows = [
        ("train", "p", "same", "same", 1.0),
        ("train", "q", "a", "b", 1.0),
        ("test", "q", "a", "b", 0.0),
        ("judge", "p", "a", "b", 1.0),
    ]
    pairs = [
        (split, Pair(prompt=prompt, chosen=chosen, rejected=rejected, annotator="a", margin=margin))
        for split, prompt, chosen, rejected, margin in rows
    ]
    verdict = check_table(pair_frame(pairs), "pairs", pair_checks(), tmp_path)
    assert [failure.rows for failure in verdict.at("error")] == [[0], [1, 2]]
    assert [failure.rows for failure in verdict.at("warning")] == [[2]]
    assert "such as 2 (0.0); to do" in verdict.lines("warning")[0]


def test_tables_are_made_of_some_rows_at_a_time_and_are_whole() -> None:
    """A tokenizer takes kilobytes for each text it is given at once; a prompt in two lots has its columns in both."""
    lots: list[int] = []
    lengths = replace(WORDS, of_texts=lambda texts: lots.append(len(texts)) or list(map(count_words, texts)))
    count = 2 * AT_ONCE + 5
    names = [f"p{row % 3}" for row in range(count)]
    fields = {"prompt": "p", "completions": ["a", "b c"], "ranks": [1, 2]}
    rows = [Demonstration(id=f"{row}", prompt=name, response="a b " * (row % 2)) for row, name in enumerate(names)]
    rankings = [Ranking.model_validate({**fields, "id": row, "annotator": row % 2}) for row in range(count)]
    frame = demonstration_frame(rows, {"p1": ["dev", "test"]}, {"p2": "two"}, lengths)
    assert frame.index.tolist() == frame["row"].tolist() == list(range(count))
    assert frame["response_tokens"].tolist() == [2 * (row % 2) for row in range(count)]
    assert frame["declared_in"].tolist() == [("", "dev, test", "")[row % 3] for row in range(count)]
    assert frame["twins"].tolist() == [("", "", "two")[row % 3] for row in range(count)]
    assert set(feedback_frame(rankings, ["f"] * count, {}, lengths)["annotators"]) == {2}
    assert max(lots) == AT_ONCE
    pair = Pair(prompt="p", chosen="a", rejected="b", annotator="x", margin=1.0)
    splits = [*["train"] * AT_ONCE, "dev"]
    assert set(pair_frame([(split, pair) for split in splits])["splits_of_prompt"]) == {2}


def test_a_table_that_was_checked_is_kept_by_nobody(tmp_path: Path) -> None:
    """The library's latest context would hold it while the next one is made."""
    frame = demonstrations([{}])
    check_table(frame, "demonstrations", demonstration_checks(ValidateParams(), 9), tmp_path)
    known = weakref.ref(frame)
    del frame
    gc.collect()
    assert known() is None


def test_damage_is_seen_and_sound_text_is_left_alone() -> None:
    """Each accident by its name; accents, capitals, emoji, tabs and quotes are sound."""
    for text in ("Café", "SÃO PAULO", "“IRMÃ”", "âne", "naïve 😀", "a\tb\r\nc", "Â, Ð and ð", "it’s – fine…"):
        assert damage_in(text) == "", text
    for text in ("Café", "it’s – fine…", "😀", "£5", "à la", "ö"):
        for encoding in ("cp1252", "latin-1"):
            misread = text.encode().decode(encoding, errors="ignore")
            if len(misread) == len(text.encode()):
                assert "UTF-8 read as another encoding" in damage_in(misread), (text, encoding)
    assert damage_in("a\ufffdb") == "the replacement character U+FFFD"
    assert damage_in("a\x00b") == "a control character"
