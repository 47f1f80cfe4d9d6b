"""ROUGE through `evaluate`: hand-derived figures, degenerate texts, an independent LCS, published cases."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from rlhf.evaluation.lcs import lcs_length
from rlhf.evaluation.ptb import ptb_tokens
from rlhf.evaluation.rouge import (
    coco_rouge,
    coco_rouge_rows,
    coco_rouge_signature,
    rouge,
    rouge_rows,
    rouge_signature,
)


def test_rouge_equals_the_shares_counted_by_hand() -> None:
    """3 of 3 words and 2 of 2 bigrams are in a reference of 6 words and 5 bigrams."""
    found = rouge(["The cat sat."], [["the cat sat on the mat"]])
    # P = 1, R = 3/6: F = 2/3. Bigrams: P = 1, R = 2/5: F = 4/7. The longest common subsequence has 3 words.
    assert found == pytest.approx({"rouge1": 2 / 3, "rouge2": 4 / 7, "rougeL": 2 / 3, "rougeLsum": 2 / 3})


def test_each_type_takes_its_own_best_reference() -> None:
    """The reversed reference wins ROUGE-1, the other one wins ROUGE-2 and ROUGE-L."""
    references = [["d c b a", "a b c x y"]]
    # Second: 3 of 4 and of 5 words, F = 2·3/9 = 2/3; bigrams 2 of 3 and of 4, F = 4/7; LCS 3, F = 2/3.
    best = {"rouge1": 1.0, "rouge2": 4 / 7, "rougeL": 2 / 3, "rougeLsum": 2 / 3}
    assert rouge(["a b c d"], references) == pytest.approx(best)
    # First: all words, no bigram, LCS 1 of 4 and of 4.
    first = {"rouge1": 1.0, "rouge2": 0.0, "rougeL": 0.25, "rougeLsum": 0.25}
    assert rouge(["a b c d"], references, refs="first") == pytest.approx(first)


def test_lsum_matches_lines_whatever_their_order() -> None:
    """Swapped lines cost ROUGE-L half (LCS 2 of 4) and ROUGE-Lsum nothing."""
    found = rouge(["a b\nc d"], [["c d\na b"]])
    assert (found["rougeL"], found["rougeLsum"]) == (0.5, 1.0)


def test_the_stemmer_joins_forms_of_a_word() -> None:
    """`serving` and `serves` share a stem; unstemmed they share nothing."""
    assert rouge(["serving"], [["serves"]])["rouge1"] == 0.0
    assert rouge(["serving"], [["serves"]], stemmer=True)["rouge1"] == 1.0


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("", "a b", 0.0),
        ("!", "a", 0.0),
        ("a b", "a b", 1.0),
        ("a", "a", 1.0),
    ],
)
def test_degenerate_texts_score_none_or_all(prediction: str, reference: str, expected: float) -> None:
    """Nothing written scores 0, the same words score 1; one word has no bigram."""
    found = rouge([prediction], [[reference]])
    assert (found["rouge1"], found["rougeL"], found["rougeLsum"]) == (expected,) * 3
    assert found["rouge2"] == (1.0 if prediction == "a b" and expected else 0.0)
    assert coco_rouge([prediction], [[reference]])["rougeL"] == expected


def test_rows_average_to_the_figure_and_know_no_order_of_references() -> None:
    """The mean of the rows is the figure; with the best reference, their order and doubles change nothing."""
    predictions, references = ["a b c", "", "d e"], [["a c"], ["x", "y z"], ["e", "d f", "d e g"]]
    rows = rouge_rows(predictions, references)
    assert rows["rouge1"] == pytest.approx([2 * 2 / 5, 0.0, 2 * 2 / 5])
    assert rouge(predictions, references)["rouge1"] == pytest.approx(sum(rows["rouge1"]) / 3)
    assert rouge_rows(predictions, [row[::-1] + row for row in references]) == rows


def test_coco_takes_precision_and_recall_from_different_references() -> None:
    """One reference holds all that was written, the other is wholly covered: P = R = 1."""
    texts = ["the blue spice."]
    assert coco_rouge(texts, [["the blue spice is nice food", "Blue Spice"]])["rougeL"] == pytest.approx(1.0)
    # The first alone: P = 1, R = 1/2, F = 2.44 · .5 / (.5 + 1.44) = 1.22 / 1.94.
    assert coco_rouge(texts, [["the blue spice is nice food"]])["rougeL"] == pytest.approx(1.22 / 1.94)
    # β = 1 is the plain F1: 2/3.
    assert coco_rouge(texts, [["the blue spice is nice food"]], beta=1.0)["rougeL"] == pytest.approx(2 / 3)


def test_coco_with_one_reference_and_beta_1_is_rouge_l() -> None:
    """On plain words, one reference and β = 1 both variants are the F1 of the LCS."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcdef", k=draw.randint(1, 12))) for _ in range(60)]
    references = [[" ".join(draw.choices("abcdef", k=draw.randint(1, 12)))] for _ in range(60)]
    assert coco_rouge_rows(texts, references, beta=1.0) == pytest.approx(rouge_rows(texts, references)["rougeL"])


def test_lcs_length_equals_the_table() -> None:
    """The bit-parallel length equals that of the textbook table, on random sequences of unequal length."""
    draw = random.Random(1)
    for _ in range(200):
        first, second = ([draw.randrange(4) for _ in range(draw.randrange(90))] for _ in range(2))
        assert lcs_length(first, second) == _table_lcs(first, second)


def _table_lcs(first: list[int], second: list[int]) -> int:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, x in enumerate(first):
        for j, y in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It's a family-friendly Café.", "it 's a family-friendly café"),
        ("They don't; you cannot!", "they do n't you can not"),
        ("Prices: £20-25, or £30.99 - cheap...", "prices £ 20-25 or £ 30.99 cheap"),
        ("£20-£25", "£ 20 £ 25"),
        ("'The Mill' (a pub)", "the mill -lrb- a pub -rrb-"),
        ("Mr. Bean of the U.S. eats hors d'oeuvre.", "mr. bean of the u.s. eats hors d'oeuvre"),
        ("you’re “in”", "you 're in"),
        ("center., .Blue", "center blue"),
        ("5 out of 5.", "5 out of 5"),
        (" . ", ""),
    ],
)
def test_ptb_tokens_cut_contractions_and_drop_marks(text: str, tokens: str) -> None:
    """The Treebank's conventions: clitics are words, compounds and prices' ranges stay, marks go."""
    assert ptb_tokens(text) == tokens.split()


def test_nothing_is_written_to_the_users_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring leaves the library's cache folder as it was."""
    import evaluate

    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "cache")
    rouge(["a"], [["a"]])
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "no predictions"),
        (["a"], [["a"], ["b"]], "1 predictions and 2 lists"),
        (["a", "b"], [["a"], []], r"references\[1\] is empty"),
        (["a"], ["a"], r"references\[0\] is a text"),
        (["a", "b"], [["a"], ["", " "]], r"references\[1\] holds no text"),
    ],
)
def test_rows_that_do_not_match_are_named(predictions: list[str], references: list[list[str]], message: str) -> None:
    """The error says which row is at fault and what to give."""
    with pytest.raises(ValueError, match=message):
        rouge(predictions, references)


def test_signatures_tell_variants_apart() -> None:
    """Two variants never share a signature."""
    variants = [rouge_signature(refs, stem) for refs in ("max", "first") for stem in (False, True)]
    signatures = [*variants, coco_rouge_signature(), coco_rouge_signature(1.0)]
    assert len(set(signatures)) == 6
    assert variants[0].endswith("refs:max|stem:no|tok:a-z0-9")


def test_the_cases_of_the_original_perl_script_hold() -> None:
    """Published values of ROUGE-1.5.5 come out to five decimals; where it scores against nothing, we refuse to.

    Needs NIGHTJAR_DATA.
    """
    folder = os.environ.get("NIGHTJAR_DATA")
    if not folder:
        pytest.skip("NIGHTJAR_DATA is not set; it names a folder with metrics/rouge155_cases.json")
    cases = json.loads((Path(folder) / "metrics" / "rouge155_cases.json").read_text(encoding="utf-8"))["cases"]
    for case in cases:
        if not case["target"].strip():
            with pytest.raises(ValueError, match="holds no text"):
                rouge([case["prediction"]], [[case["target"]]])
            continue
        found = rouge([case["prediction"]], [[case["target"]]], stemmer=case["stemmer"])[case["rouge"]]
        assert found == pytest.approx(case["fmeasure"], abs=case["tolerance"]), case["name"]
