"""chrF: how many of a text's character n-grams its references hold, in any language. Quote the signature with it."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.evaluation.metrics import compute


def chrf(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus chrF2 of N predictions, 0 to 100, against the best of each row's references.

    F = (1 + β²) P R / (β² P + R), β = 2, where P and R are the means over n = 1..6 of the shares of character n-grams
    that a prediction and a reference have in common, without white space.

    Source: Popović 2015, chrF: character n-gram F-score for automatic MT evaluation, section 2; 2016 for β = 2.

    Raises:
        ValueError: there is nothing to score, the lengths differ, or a row has no reference.
    """
    from rlhf.evaluation.metrics.chrf import Chrf

    score: float = compute(Chrf, predictions, references)["score"]
    return score


def chrf_signature(references: Sequence[Sequence[str]]) -> str:
    """sacrebleu's own signature of `chrf`, with the number of references in it."""
    from sacrebleu.metrics.chrf import CHRF

    from rlhf.evaluation.metrics.features import reference_count

    metric = CHRF()
    metric.num_refs = reference_count(references)
    return str(metric.get_signature())
