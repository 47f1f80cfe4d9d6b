"""Corpus BLEU over several references, as a module of the `evaluate` library backed by sacrebleu."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
from sacrebleu.metrics.bleu import BLEU

from rlhf.evaluation.metrics.features import reference_streams, texts_with_references


class Bleu(evaluate.Metric):  # type: ignore[misc]  # its library is not typed
    """sacrebleu's corpus BLEU; rows may have different numbers of references."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Corpus BLEU (0 to 100) with one or more references per prediction.",
            citation="Papineni et al. 2002; Post 2018, A Call for Clarity in Reporting BLEU Scores",
            inputs_description="predictions: N texts; references: N lists of texts; "
            "systems: how many stand one after the other; "
            "options: those of sacrebleu.metrics.BLEU (lowercase, tokenize, smooth_method ...).",
            features=texts_with_references(),
        )

    def _compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        systems: int = 1,
        **options: Any,
    ) -> dict[str, Any]:
        """Returns a corpus score per system and sacrebleu's signature of it.

        Several systems stand one after the other, each with the same references in the same order: these
        are counted once.
        """
        size = len(predictions) // systems
        # force: a corpus that is already tokenized is scored as it is, without a warning.
        metric = BLEU(force=True, references=reference_streams(references[:size]), **options)
        corpora = [predictions[start : start + size] for start in range(0, len(predictions), size)]
        scores = [float(metric.corpus_score(list(corpus), None).score) for corpus in corpora]
        return {"scores": scores, "signature": str(metric.get_signature())}
