"""Corpus BLEU over several references, as a module of the `evaluate` library backed by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import datasets
import evaluate
from sacrebleu.metrics import BLEU


class Bleu(evaluate.Metric):
    """sacrebleu's corpus BLEU; rows may have different numbers of references."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Corpus BLEU (0 to 100) with one or more references per prediction.",
            citation="Papineni et al. 2002; Post 2018, A Call for Clarity in Reporting BLEU Scores",
            inputs_description="predictions: N texts; references: N lists of texts; "
            "options: those of sacrebleu.metrics.BLEU (lowercase, tokenize, smooth_method ...).",
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Sequence(datasets.Value("string")),
                }
            ),
        )

    def _compute(
        self, predictions: Sequence[str], references: Sequence[Sequence[str]], **options: Any
    ) -> dict[str, Any]:
        """Returns the corpus `score` and sacrebleu's `signature` of it."""
        # force: a corpus that is already tokenized is scored as it is, without a warning.
        metric = BLEU(force=True, **options)
        # sacrebleu takes reference streams and passes over None where a row has fewer than others.
        streams = [list(stream) for stream in zip_longest(*references)]
        score = metric.corpus_score(list(predictions), streams)  # type: ignore[arg-type]
        return {"score": float(score.score), "signature": str(metric.get_signature())}
