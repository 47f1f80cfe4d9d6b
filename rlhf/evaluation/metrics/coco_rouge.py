"""ROUGE-L as the COCO caption and E2E challenge scripts have it, as a module of `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import evaluate

from rlhf.evaluation.language import unicode_words
from rlhf.evaluation.lcs import lcs_length
from rlhf.evaluation.metrics.features import texts_with_references
from rlhf.evaluation.ptb import ptb_tokens


class CocoRouge(evaluate.Metric):  # type: ignore[misc]  # its library is not typed
    """F-beta of the best LCS precision and the best LCS recall, each taken over all references."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="ROUGE-L of the COCO caption scripts (0 to 1).",
            citation="Lin 2004; Chen et al. 2015, Microsoft COCO Captions",
            inputs_description="predictions: N texts; references: N lists of texts; beta: weight of recall; "
            "words: 'rouge_score' (Treebank-like, English) or 'unicode' (any language).",
            features=texts_with_references(),
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        beta: float = 1.2,
        words: str = "rouge_score",
    ) -> dict[str, Any]:
        """Returns a list of N scores as `rougeL`."""
        tokens = cache(unicode_words if words == "unicode" else ptb_tokens)
        scores = [
            _score(tokens(prediction), [tokens(text) for text in row], beta)
            for prediction, row in zip(predictions, references, strict=True)
        ]
        return {"rougeL": scores}


def _score(prediction: list[str], references: list[list[str]], beta: float) -> float:
    """(1 + β²) P R / (R + β² P), with P and R the largest over the references, of which two may differ."""
    lengths = [lcs_length(prediction, reference) for reference in references]
    precision = max(lengths) / max(len(prediction), 1)
    recall = max(length / max(len(reference), 1) for length, reference in zip(lengths, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
