"""ROUGE over several references, as a module of the `evaluate` library backed by rouge-score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import evaluate
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.scoring import Score
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from rlhf.evaluation.language import unicode_words
from rlhf.evaluation.metrics.features import texts_with_references

NGRAMS_AND_LCS = ["rouge1", "rouge2", "rougeL"]


class _Remembering(Tokenizer):  # type: ignore[misc]  # its library is not typed
    """rouge-score's own tokens or those of any language, each text cut once: references come back for every system."""

    def __init__(self, stemmer: bool, words: str) -> None:
        if stemmer and words != "rouge_score":
            raise ValueError(f"stemmer is Porter's, for English words of a-z, but words is {words}; leave it out")
        self._tokens = cache(unicode_words if words == "unicode" else DefaultTokenizer(use_stemmer=stemmer).tokenize)

    def tokenize(self, text: str) -> list[str]:
        tokens: list[str] = self._tokens(text)
        return tokens


class Rouge(evaluate.Metric):  # type: ignore[misc]  # its library is not typed
    """ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum F1 of each prediction against its references."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE-1/2/L/Lsum F1 (0 to 1) with one or more references per prediction.",
            citation="Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries",
            inputs_description="predictions: N texts; references: N lists of texts; "
            "refs: 'max' (best F1 over the references, per type) or 'first'; stemmer: Porter's or none; "
            "words: 'rouge_score' (a-z and 0-9) or 'unicode' (any language).",
            features=texts_with_references(),
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        refs: str = "max",
        stemmer: bool = False,
        words: str = "rouge_score",
    ) -> dict[str, Any]:
        """Returns one list of N scores per ROUGE type."""
        tokenizer = _Remembering(stemmer, words)
        scorer = RougeScorer(NGRAMS_AND_LCS, tokenizer=tokenizer)
        by_sentence = RougeScorer(["rougeLsum"], tokenizer=tokenizer)
        scores: dict[str, list[float]] = {name: [] for name in [*NGRAMS_AND_LCS, "rougeLsum"]}
        for prediction, row in zip(predictions, references, strict=True):
            # The best of several does not change when one of them stands there twice.
            targets = list(dict.fromkeys(row)) if refs == "max" else row[:1]
            best: dict[str, Score] = scorer.score_multi(targets, prediction)
            # Sentences are lines; on single lines ROUGE-Lsum is ROUGE-L, which costs nothing more.
            if any("\n" in text for text in (prediction, *targets)):
                best |= by_sentence.score_multi(targets, prediction)
            else:
                best["rougeLsum"] = best["rougeL"]
            for name, score in best.items():
                scores[name].append(float(score.fmeasure))
        return scores
