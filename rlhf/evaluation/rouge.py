"""ROUGE: how much of the references a text holds. Each variant has a signature; quote it with the number."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from statistics import fmean
from typing import Literal

from rlhf.evaluation.language import Words, check_words
from rlhf.evaluation.metrics import check, compute

Refs = Literal["max", "first"]


def rouge(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    refs: Refs = "max",
    stemmer: bool = False,
    words: Words = "rouge_score",
) -> dict[str, float]:
    """Mean ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum F1 over N predictions, 0 to 1.

    F1 = 2PR / (P + R), where P and R are the shares of n-grams (or of words in the longest common
    subsequence) that a prediction and a reference have in common.

    Source: Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, sections 2 and 3.

    Args:
        predictions: N texts.
        references: N lists of one or more texts, of any lengths.
        refs: `max` takes the best F1 over a row's references, for each type by itself; `first` looks at
            the first reference alone.
        stemmer: Porter's stemmer on words of more than three letters, for English.
        words: what is counted: `rouge_score`, runs of a-z and 0-9; `unicode`, the words of any language.

    Returns:
        `rouge1`, `rouge2`, `rougeL`, `rougeLsum` (sentences are lines).

    Raises:
        ValueError: there is nothing to score, the lengths differ, a row has no reference, or none that holds a
            word: whatever was written would score 0.
    """
    rows = rouge_rows(predictions, references, refs, stemmer, words)
    return {name: fmean(scores) for name, scores in rows.items()}


def rouge_rows(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    refs: Refs = "max",
    stemmer: bool = False,
    words: Words = "rouge_score",
) -> dict[str, list[float]]:
    """As `rouge`, with the N scores of each type instead of their mean."""
    from rlhf.evaluation.metrics.rouge import Rouge

    check(predictions, references)
    check_words(references if refs == "max" else [row[:1] for row in references], words)
    return compute(Rouge, predictions, references, refs=refs, stemmer=stemmer, words=words)


def coco_rouge(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    beta: float = 1.2,
    words: Words = "rouge_score",
) -> dict[str, float]:
    """Mean ROUGE-L (`rougeL`, 0 to 1) as the COCO caption and E2E challenge scripts compute it.

    F = (1 + β²) P R / (R + β² P), where P is the largest LCS precision and R the largest LCS recall over
    the references, each by itself: they may come from two references.

    Source: Lin 2004, section 3.1, equation 4; Chen et al. 2015, Microsoft COCO Captions, section 3.2.

    Differs from: the scripts, whose tokens come from Stanford's Java tokenizer; ours are made to agree on
    plain English sentences. With `unicode` words they are those of `rouge`.
    """
    return {"rougeL": fmean(coco_rouge_rows(predictions, references, beta, words))}


def coco_rouge_rows(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    beta: float = 1.2,
    words: Words = "rouge_score",
) -> list[float]:
    """As `coco_rouge`, with the N scores instead of their mean."""
    from rlhf.evaluation.metrics.coco_rouge import CocoRouge

    check(predictions, references)
    check_words(references, words)
    scores: list[float] = compute(CocoRouge, predictions, references, beta=beta, words=words)["rougeL"]
    return scores


def rouge_signature(refs: Refs = "max", stemmer: bool = False, words: Words = "rouge_score") -> str:
    """The signature of `rouge`: numbers with the same signature may be compared."""
    tokens = {"rouge_score": "a-z0-9", "unicode": "unicode-words, letters of scripts without spaces, NFC"}[words]
    stem = "yes" if stemmer else "no"
    return f"rouge_score:{version('rouge-score')}|score:f1|agg:mean|refs:{refs}|stem:{stem}|tok:{tokens}"


def coco_rouge_signature(beta: float = 1.2, words: Words = "rouge_score") -> str:
    """The signature of `coco_rouge`."""
    tokens = "ptb-like" if words == "rouge_score" else "unicode-words"
    return f"coco_rougeL:nightjar|score:f{beta:g}|agg:mean|refs:max-p-max-r|case:lc|tok:{tokens}|punct:no"
