"""Corpus chrF over several references, as a module of the `evaluate` library backed by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
from sacrebleu.metrics.chrf import CHRF

from rlhf.evaluation.metrics.features import reference_streams, texts_with_references


class Chrf(evaluate.Metric):  # type: ignore[misc]  # its library is not typed
    """sacrebleu's corpus chrF; rows may have different numbers of references."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Corpus chrF (0 to 100) with one or more references per prediction.",
            citation="Popović 2015, chrF: character n-gram F-score for automatic MT evaluation",
            inputs_description="predictions: N texts; references: N lists of texts; "
            "options: those of sacrebleu.metrics.CHRF (char_order, word_order, beta ...).",
            features=texts_with_references(),
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], **options: Any
    ) -> dict[str, Any]:
        """Returns the corpus score."""
        metric = CHRF(references=reference_streams(references), **options)
        return {"score": float(metric.corpus_score(list(predictions), None).score)}
