"""BLEU through `evaluate`: hand-derived figures, ragged references, an independent count, published cases."""

from __future__ import annotations

import json
import math
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from rlhf.evaluation.bleu import bleu, bleu_signature, bleu_systems


def test_bleu_equals_the_precisions_counted_by_hand() -> None:
    """4/5 · 3/4 · 2/3 · 1/2 = 1/5, and no brevity penalty: its fourth root."""
    assert bleu(["a b c d e"], [["a b c d f"]]) == pytest.approx(100 * 0.2**0.25, abs=1e-9)


def test_a_short_text_pays_the_brevity_penalty() -> None:
    """All n-grams are found, 4 words stand for 5: exp(1 - 5/4)."""
    assert bleu(["a b c d"], [["a b c d e"]]) == pytest.approx(100 * math.exp(-0.25), abs=1e-9)


def test_a_word_counts_as_often_as_a_reference_has_it() -> None:
    """One of four; no longer n-gram is found, so halves are smoothed in, or nothing is left."""
    # p1 = 1/4, then 1/(2·3), 1/(4·2), 1/(8·1) by exponential smoothing (Lin and Och 2004).
    smoothed = (1 / 4 * 1 / 6 * 1 / 8 * 1 / 8) ** 0.25
    assert bleu(["the the the the"], [["the cat"]]) == pytest.approx(100 * smoothed, abs=1e-9)
    assert bleu(["the the the the"], [["the cat"]], smooth="none") == 0.0


def test_rows_may_have_different_numbers_of_references() -> None:
    """A missing reference is missing: it is no empty text, whose length would be the nearest here."""
    predictions, references = ["a b c d", "p q r s"], [["a b c d e f g h i"], ["x y", "p q r s"]]
    # All n-grams are found; 8 words stand for 9 + 4.
    assert bleu(predictions, references) == pytest.approx(100 * math.exp(1 - 13 / 8), abs=1e-9)
    assert bleu(predictions, references[::-1]) < 10


def test_degenerate_texts_score_none_or_all() -> None:
    """Nothing written scores 0; the same four words score 100; an empty row among others counts no n-gram."""
    assert bleu(["", ""], [["a"], ["b", "c"]]) == 0.0
    assert bleu(["a b c d"], [["a b c d"]]) == pytest.approx(100.0)
    # 4 words stand for 4 + 4.
    assert bleu(["a b c d", ""], [["a b c d"], ["e f g h"]]) == pytest.approx(100 * math.exp(-1), abs=1e-9)


def test_case_counts_unless_lowered_and_first_is_the_first() -> None:
    """Lower-casing makes the texts equal; the first reference alone does not have them."""
    assert bleu(["A B C D"], [["x", "a b c d"]]) == 0.0
    assert bleu(["A B C D"], [["x", "a b c d"]], lowercase=True) == pytest.approx(100.0)
    assert bleu(["A B C D"], [["x", "a b c d"]], lowercase=True, refs="first", smooth="none") == 0.0


def test_bleu_equals_a_naive_count_on_random_corpora() -> None:
    """mteval's formula, counted with dictionaries, on rows with 1 to 4 references."""
    draw = random.Random(0)

    def text(low: int) -> str:
        return " ".join(draw.choices("abcd", k=draw.randint(low, 15)))

    for _ in range(5):
        predictions = [text(0) for _ in range(20)]
        references = [[text(1) for _ in range(draw.randint(1, 4))] for _ in range(20)]
        expected = _naive_bleu(predictions, references)
        assert bleu(predictions, references, smooth="none") == pytest.approx(expected, abs=1e-6)
        shuffled = [draw.sample(row, len(row)) for row in references]
        assert bleu(predictions, shuffled, smooth="none") == pytest.approx(expected, abs=1e-6)


def _naive_bleu(predictions: list[str], references: list[list[str]]) -> float:
    logs, written, wanted = 0.0, 0, 0
    for n in range(1, 5):
        hits = total = 0
        for prediction, row in zip(predictions, references, strict=True):
            ours = _counts(prediction, n)
            total += sum(ours.values())
            hits += sum(min(count, max(_counts(r, n)[gram] for r in row)) for gram, count in ours.items())
        logs += math.log(hits / total) / 4
    for prediction, row in zip(predictions, references, strict=True):
        length = len(prediction.split())
        written += length
        wanted += min((abs(len(r.split()) - length), len(r.split())) for r in row)[1]
    return 100 * math.exp(logs + min(0.0, 1 - wanted / written))


def _counts(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def test_systems_scored_together_score_as_alone() -> None:
    """Sharing the references' counts changes no figure."""
    references = [["a b c d e", "a c"], ["p q r s t u"]]
    systems = [["a b c d", "p q r s t"], ["a c e", "p q r s t u"], ["", "x"]]
    assert bleu_systems(systems, references) == [bleu(system, references) for system in systems]


def test_the_signature_names_every_choice() -> None:
    """sacrebleu's form, with `var` where the rows differ in their number of references."""
    ragged = [["a"], ["b", "c"]]
    assert bleu_signature(ragged).startswith("nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert bleu_signature(ragged, refs="first", lowercase=True).startswith("nrefs:1|case:lc")
    assert bleu_signature([["a", "b"]], tokenize="intl", smooth="none").startswith(
        "nrefs:2|case:mixed|eff:no|tok:intl|smooth:none"
    )


def test_the_published_cases_of_sacrebleu_hold() -> None:
    """The figures of its own tests, with every tokenizer and smoothing there; needs NIGHTJAR_DATA."""
    folder = os.environ.get("NIGHTJAR_DATA")
    if not folder:
        pytest.skip("NIGHTJAR_DATA is not set; it names a folder with metrics/sacrebleu_cases.json")
    cases = json.loads((Path(folder) / "metrics" / "sacrebleu_cases.json").read_text(encoding="utf-8"))
    for case in cases["corpus_bleu"]:
        # The file holds streams (one list per reference), we take rows (one list per prediction).
        rows = [list(row) for row in zip(*case["refs"], strict=True)]
        names = {"smooth_method": "smooth"}
        options = {names.get(name, name): value for name, value in case["kwargs"].items()}
        assert bleu(case["hyps"], rows, **options) == pytest.approx(case["bleu"], abs=1e-6)
    from sacrebleu.metrics.bleu import BLEU

    for case in cases["from_statistics"]:
        score = BLEU.compute_bleu(case["counts"], case["totals"], case["sys_len"], case["ref_len"])
        assert score.score / 100 == pytest.approx(case["bleu01"], abs=1e-6)
