"""The profile of a night's data: which traits a row has, what tells it again, and that it holds no text."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest

from rlhf.records import Ranking
from tasks.drift import profile
from tasks.drift.profile import Traits, bucket_of, language_of
from tasks.files import write_rows
from tasks.paths import Paths

PROMPT = "Wo isst man gut?"
RANKING = {"id": "r", "prompt": PROMPT, "completions": ["Hier.", "Dort drüben, am Fluss.", "x"], "source": "people"}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """A workspace with a row of every kind, two annotators of one item and another of a second."""
    paths = Paths(tmp_path)
    write_rows(paths.validated / "train" / "prompts.jsonl", [{"id": "1", "prompt": PROMPT, "references": []}])
    write_rows(
        paths.validated / "test" / "prompts.jsonl",
        [{"id": "2", "prompt": [{"role": "user", "content": "Где?"}], "references": ["Там."], "language": "ru"}],
    )
    write_rows(paths.validated / "train" / "demonstrations.jsonl", [{"id": "1", "prompt": PROMPT, "response": "Hier."}])
    rankings = [
        {**RANKING, "annotator": "ana", "ranks": [1, 2, 3]},
        {**RANKING, "annotator": "bo", "completions": ["x", *RANKING["completions"][:2]], "ranks": [3, 1, 1]},
        {**RANKING, "annotator": "ana", "completions": ["a", "b"], "ranks": [1, 1]},
    ]
    write_rows(paths.rankings, [{**row, "id": str(index)} for index, row in enumerate(rankings)])
    text = {"id": "2", "prompt": "Где?", "text": "Там.", "reward": 1.5}
    write_rows(paths.evaluation / "fixed_texts.jsonl", [text])
    return paths


def of_kind(rows: list[Traits], kind: str) -> list[Traits]:
    return [row for row in rows if row.kind == kind]


def test_each_kind_has_its_traits(paths: Paths) -> None:
    """Lengths in words; a row's own language counts before what is found in it; one prompt has one digest."""
    rows = profile.profile(paths)
    german, russian = sorted(of_kind(rows, "prompts"), key=lambda row: row.language or "")
    assert (german.language, german.length) == ("Latin", 4.0)
    assert german.words == [bucket_of(word) for word in ("wo", "isst", "man", "gut")]
    assert (russian.language, russian.length) == ("ru", 1.0)
    [demonstration] = of_kind(rows, "demonstrations")
    assert (demonstration.prompt, demonstration.length) == (german.prompt, 1.0)
    [text] = of_kind(rows, "fixed_texts")
    assert (text.prompt, text.score) == (russian.prompt, 1.5)


def test_each_kind_of_row_has_its_own_language_and_prompt(paths: Paths) -> None:
    """A demonstration's is its response's, a ranking's its completions'; an empty field `language` says nothing."""
    answers = [{"id": "1", "prompt": PROMPT, "response": text} for text in ("Здесь.", "Там.")]
    write_rows(paths.validated / "dev" / "demonstrations.jsonl", [{**answers[0], "language": ""}, answers[1]])
    ranking = {**RANKING, "id": "r", "completions": ["Здесь.", "Там."], "ranks": [1, 2], "annotator": "cy"}
    write_rows(paths.rankings, [ranking, {**ranking, "ranks": [2, 1]}])
    rows = profile.profile(paths)
    asked = next(row.prompt for row in of_kind(rows, "prompts") if row.language == "Latin")
    assert sorted(row.language or "" for row in of_kind(rows, "demonstrations")) == ["Cyrillic", "Cyrillic", "Latin"]
    ranked = of_kind(rows, "rankings")
    assert [(row.language, row.prompt) for row in ranked] == [("Cyrillic", asked)] * 2  # a second opinion is a row too


def test_a_fixed_text_is_known_by_its_prompt_and_itself(paths: Paths) -> None:
    """Another text of the same prompt is another."""
    [before] = of_kind(profile.profile(paths), "fixed_texts")
    text = {"id": "2", "prompt": "Где?", "text": "Здесь.", "reward": 1.5}
    write_rows(paths.evaluation / "fixed_texts.jsonl", [text])
    [after] = of_kind(profile.profile(paths), "fixed_texts")
    assert (after.prompt, after.row == before.row) == (before.prompt, False)


def test_a_prompt_without_a_word_has_none(paths: Paths) -> None:
    """And is left out where words are compared; a word's number says little of the word."""
    write_rows(paths.validated / "train" / "prompts.jsonl", [{"id": "1", "prompt": "?!", "references": []}])
    assert [row.words for row in of_kind(profile.profile(paths), "prompts") if row.language == "none"] == [None]
    assert max(bucket_of(f"w{n}") for n in range(500)) < 4096


def test_a_ranking_knows_its_ties_and_who_agrees(paths: Paths) -> None:
    """Of three couples bo ties one; ana and bo, who read them in another order, agree on the other two: 2/3 each."""
    rows = {row.ties: row for row in of_kind(profile.profile(paths), "rankings")}
    assert [rows[ties].annotator for ties in (0.0, 1 / 3, 1.0)] == ["ana", "bo", "ana"]
    assert rows[0.0].agreement == rows[1 / 3].agreement == pytest.approx(2 / 3)
    assert rows[1.0].agreement is None  # nobody else ranked these
    assert rows[0.0].length == pytest.approx((1 + 4 + 1) / 3)


def test_who_ranks_some_of_the_same_texts_agrees_or_not_on_those() -> None:
    """ana has a before b twice, once with c, which nobody else ranked; bo b before a; cy both alike; dee a before b.

    Of three others dee says what ana says; nobody says what bo or cy say; of four dee agrees with ana's two. Of another
    prompt dee alone ranks the same texts.
    """
    given = [("ana", "abc", [1, 2, 3]), ("ana", "ab", [1, 2]), ("bo", "ba", [1, 2]), ("cy", "ab", [1, 1])]
    rows = [{**RANKING, "completions": list(texts), "ranks": ranks, "annotator": who} for who, texts, ranks in given]
    rows += [{**rows[1], "annotator": "dee"}, {**rows[1], "prompt": "Wohin?", "annotator": "dee"}]
    ranked = [Ranking.model_validate({**row, "id": str(index)}) for index, row in enumerate(rows)]
    found = Counter((row.annotator, row.agreement) for row in profile.of_rankings(ranked))
    assert found == {("ana", 1 / 3): 2, ("bo", 0.0): 1, ("cy", 0.0): 1, ("dee", 0.5): 1, ("dee", None): 1}


def test_a_profile_holds_no_text(paths: Paths, tmp_path: Path) -> None:
    """It comes back as it was written; the same rows are the same bytes, whatever their order was."""
    rows, file = profile.profile(paths), tmp_path / "profile.jsonl.gz"
    profile.write(file, rows)
    assert profile.read(file) == rows
    assert not any(text in gzip.decompress(file.read_bytes()).decode() for text in ("isst", "Hier", "Где", "Fluss"))
    assert file.read_bytes()[4:8] == bytes(4)  # gzip's date
    before, lines = file.read_bytes(), paths.rankings.read_text().splitlines()
    paths.rankings.write_text("\n".join(reversed(lines)) + "\n")
    profile.write(file, profile.profile(paths))
    assert file.read_bytes() == before


def test_of_many_rows_the_same_are_kept_every_night(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with the smallest digests."""
    every = of_kind(profile.profile(paths), "rankings")
    monkeypatch.setattr(profile, "MAX_ROWS", 2)
    assert of_kind(profile.profile(paths), "rankings") == sorted(every, key=lambda row: row.row)[:2]


def test_another_reward_model_is_another_night(paths: Paths) -> None:
    """Its scores are part of what tells two nights apart; the same night is the same."""
    rows = profile.profile(paths)
    other = [row.model_copy(update={"score": 2.0}) if row.score else row for row in rows]
    assert profile.digest_of(rows) == profile.digest_of(profile.profile(paths)) != profile.digest_of(other)


def test_an_evaluation_without_fixed_texts_has_none(paths: Paths) -> None:
    """One of a time before they were scored."""
    (paths.evaluation / "fixed_texts.jsonl").unlink()
    assert of_kind(profile.profile(paths), "fixed_texts") == []


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("name: Rosa, food: fish", "Latin"),
        ("The food of the place is good and it is near the river.", "Latin"),
        ("Grüße aus der Stadt!", "Latin"),
        ("привет all", "Cyrillic"),
        ("你好吗 ok", "zh"),
        ("これは何ですか", "ja"),
        ("नमस्ते", "Devanagari"),
        ("12 - 3", "none"),
        ("a" * 200 + "я" * 300, "Latin"),  # its first letters tell
    ],
)
def test_a_text_has_the_language_that_evaluate_finds_else_its_script(text: str, language: str) -> None:
    """Figures and marks tell nothing; nor do function words, which come and go with the length of English texts."""
    assert language_of(text) == language
