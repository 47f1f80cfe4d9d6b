"""BLEU: how many of a text's n-grams its references hold. Quote the signature with the number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rlhf.evaluation.language import Tokenize
from rlhf.evaluation.metrics import check, compute

Refs = Literal["all", "first"]
Smooth = Literal["exp", "floor", "add-k", "none"]


def bleu(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    refs: Refs = "all",
    lowercase: bool = False,
    tokenize: Tokenize = "13a",
    smooth: Smooth = "exp",
) -> float:
    """Corpus BLEU of N predictions, 0 to 100.

    BLEU = 100 · BP · exp(¼ Σ log pₙ), n = 1..4, where pₙ is the share of n-grams found in a reference
    (counted at most as often as one reference has them) and BP = min(1, exp(1 − r/c)) for c words written
    and r words in the references nearest in length.

    Source: Papineni et al. 2002, section 2.3; Post 2018, A Call for Clarity in Reporting BLEU Scores.
    Lower-cased and with `smooth="none"` it equals NIST's mteval-v13a, on a scale of 0 to 1 there.

    Args:
        predictions: N texts; an empty one counts no n-gram.
        references: N lists of one or more texts, of any lengths.
        refs: `all` references, or the `first` alone.
        lowercase: compare lower-cased texts.
        tokenize: sacrebleu's tokenizer; `13a` is mteval's, for words between spaces (rlhf/evaluation/language.py).
        smooth: what stands for pₙ where no n-gram was found.

    Raises:
        ValueError: there is nothing to score, the lengths differ, or a row has no reference.
    """
    return bleu_systems([predictions], references, refs, lowercase, tokenize, smooth)[0]


def bleu_systems(
    systems: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    refs: Refs = "all",
    lowercase: bool = False,
    tokenize: Tokenize = "13a",
    smooth: Smooth = "exp",
) -> list[float]:
    """As `bleu`, for several systems on the same references, which are counted once: one figure each."""
    from rlhf.evaluation.metrics.bleu import Bleu

    for predictions in systems:
        check(predictions, references)
    kept = references if refs == "all" else [row[:1] for row in references]
    texts = [text for predictions in systems for text in predictions]
    options = {"lowercase": lowercase, "tokenize": tokenize, "smooth_method": smooth}
    scores: list[float] = compute(Bleu, texts, [*kept] * len(systems), systems=len(systems), **options)["scores"]
    return scores


def bleu_signature(
    references: Sequence[Sequence[str]],
    refs: Refs = "all",
    lowercase: bool = False,
    tokenize: Tokenize = "13a",
    smooth: Smooth = "exp",
) -> str:
    """sacrebleu's own signature of `bleu` with these arguments, with the number of references in it."""
    from sacrebleu.metrics.bleu import BLEU

    from rlhf.evaluation.metrics.features import reference_count

    metric = BLEU(lowercase=lowercase, tokenize=tokenize, smooth_method=smooth)
    metric.num_refs = reference_count(references) if refs == "all" else 1
    return str(metric.get_signature())
