"""The paired bootstrap: sacreBLEU's own figures, chance and no difference at all."""

from __future__ import annotations

import random
from typing import Any, cast

import numpy as np
import pytest

from rlhf.evaluation.bleu import bleu
from rlhf.evaluation.chrf import chrf, chrf_signature
from rlhf.evaluation.language import Tokenization
from rlhf.evaluation.significance import differences_signature, paired_bootstrap, text_differences

ENGLISH = Tokenization("en", False, "rouge_score", "13a")


def corpus(kept: float, seed: int, rows: int = 60) -> tuple[list[str], list[list[str]]]:
    """Texts that keep this share of their reference's words."""
    draw, other = random.Random(7), random.Random(seed)
    references = [[" ".join(draw.choices("abcdefgh", k=12))] for _ in range(rows)]
    return [" ".join(w if other.random() < kept else "z" for w in row[0].split()) for row in references], references


def test_the_means_are_tested_as_sacrebleu_tests_its_metrics() -> None:
    """A metric of sacreBLEU whose score is a mean over prompts gets the same p from its own test."""
    from sacrebleu.metrics.base import Score
    from sacrebleu.significance import Result, _paired_bs_test

    class Mean:
        def _extract_corpus_statistics(self, texts: list[str], references: None) -> list[list[float]]:
            return [[float(text), 1.0] for text in texts]

        def _compute_score_from_stats(self, stats: np.ndarray) -> Score:
            return Score("mean", float(stats[0] / stats[1]))

        def _aggregate_and_compute(self, stats: list[list[float]]) -> Score:
            return self._compute_score_from_stats(np.sum(stats, axis=0))

    draw, metric = np.random.default_rng(3), cast(Any, Mean())
    for shift in (0.0, 0.05, 0.15, 0.4):
        ours, others = draw.random(50) + shift, draw.random(50)
        stats = metric._extract_corpus_statistics([str(value) for value in others], None)
        known = {"mean": (stats, Result(metric._aggregate_and_compute(stats).score))}
        _, found = _paired_bs_test(known, "system", [str(v) for v in ours], None, {"mean": metric}, seed=12345)
        assert paired_bootstrap(ours, others) == pytest.approx(found["mean"].p_value)


def test_a_difference_is_told_from_chance() -> None:
    """The same kind of answers: no sign of a difference; most words kept against half of them: a certain one."""
    better, references = corpus(0.9, 1)
    worse, like_it = corpus(0.5, 2)[0], corpus(0.5, 3)[0]
    certain = text_differences(better, worse, references, ENGLISH)
    assert certain == dict.fromkeys(("rougeL_p", "bleu_p", "chrf_p"), pytest.approx(1 / 1001))
    chance = text_differences(like_it, worse, references, ENGLISH)
    assert all(value > 0.1 for value in chance.values())
    assert bleu(better, references) > bleu(worse, references)


def test_no_difference_at_all_is_no_finding() -> None:
    """Answers that are the same have p = 1, not the smallest."""
    texts, references = corpus(0.5, 1, rows=5)
    assert set(text_differences(texts, texts, references, ENGLISH).values()) == {1.0}
    assert paired_bootstrap([0.5, 0.1], [0.5, 0.1]) == 1.0
    with pytest.raises(ValueError, match="found 2 and 1 values"):
        paired_bootstrap([1.0, 2.0], [1.0])
    assert differences_signature().startswith("paired bootstrap|two-sided|resamples:1000|seed:12345|sacrebleu:")


def test_chrf_counts_characters() -> None:
    """`abc` in `abcd`: P = 1 for n = 1..3, R = 3/4, 2/3, 1/2; no longer n-gram is written. F2 = 5PR / (4P + R)."""
    # sacreBLEU counts the orders that both sides have: 3. R = 23/36: 5 · 23/36 / (4 + 23/36) = 115/167.
    assert chrf(["abc"], [["abcd"]]) == pytest.approx(100 * 115 / 167)
    assert chrf(["我爱北京"], [["xyz", "我爱北京"]]) == pytest.approx(100.0)
    assert chrf(["xyz", "abc"], [["我爱北京"], ["abc", "d"]]) < 100.0
    assert chrf_signature([["a"], ["b", "c"]]).startswith("nrefs:var|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")
