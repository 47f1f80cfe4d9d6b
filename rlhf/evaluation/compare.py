"""SFT, policy and best-of-n on the same prompts: their answers, and what each scorer says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from jaxtyping import Float

from rlhf.annotator import gold_score
from rlhf.evaluation.best_of_n import choose_best
from rlhf.evaluation.bleu import bleu, bleu_signature
from rlhf.evaluation.chrf import chrf, chrf_signature
from rlhf.evaluation.language import Tokenization
from rlhf.evaluation.rouge import rouge, rouge_signature
from rlhf.evaluation.text import distinct_n, mean_words, repeated_ngram_share
from rlhf.records import PromptText
from rlhf.reward import RewardModel

Grid = list[list[float]]
"""One score per prompt and sample."""


@dataclass(frozen=True)
class Contestant:
    """One way to answer.

    Attributes:
        answers: the text per prompt that ROUGE, BLEU and a reader look at.
        samples: the texts per prompt that are scored, so that a score is an expectation.
        scores: by scorer (`reward`, `gold`, `judge`), the score of each sample.
        answer_scores: by scorer, the score of each answer.
    """

    answers: list[str]
    samples: list[list[str]]
    scores: dict[str, Grid]
    answer_scores: dict[str, list[float]]

    def sample_lengths(self) -> Float[np.ndarray, "N S"]:
        """The length of each sample, in characters."""
        return np.array([[float(len(text)) for text in texts] for texts in self.samples])


def score_samples(
    prompts: Sequence[PromptText],
    samples: Sequence[Sequence[str]],
    scorers: Mapping[str, RewardModel],
    gold: bool,
) -> dict[str, Grid]:
    """Every scorer's score of every sample, gold's among them where the corpus has gold."""
    repeated = [prompt for prompt, texts in zip(prompts, samples, strict=True) for _ in texts]
    flat = [text for texts in samples for text in texts]
    scores = {name: _fold(scorer.score(repeated, flat).tolist(), samples) for name, scorer in scorers.items()}
    if gold:
        scores["gold"] = _fold([gold_score(str(p), text) for p, text in zip(repeated, flat, strict=True)], samples)
    return scores


def best_of_n(samples: Sequence[Sequence[str]], scores: Mapping[str, Grid]) -> Contestant:
    """What the reward model chooses from each prompt's samples, with that sample's scores."""
    best = choose_best(np.array(scores["reward"]))
    chosen = [texts[index] for texts, index in zip(samples, best, strict=True)]
    kept = {name: [row[index] for row, index in zip(grid, best, strict=True)] for name, grid in scores.items()}
    grids = {name: [[score] for score in column] for name, column in kept.items()}
    return Contestant(chosen, [[text] for text in chosen], grids, kept)


def text_metrics(answers: Sequence[str], references: Sequence[Sequence[str]], tokens: Tokenization) -> dict[str, float]:
    """ROUGE (0 to 1), BLEU and chrF (0 to 100) over all references, length in words, and how much repeats."""
    return {
        **rouge(answers, references, words=tokens.words),
        "bleu": bleu(answers, references, tokenize=tokens.bleu),
        "bleu_lc": bleu(answers, references, lowercase=True, tokenize=tokens.bleu),
        "chrf": chrf(answers, references),
        "length": mean_words(answers),
        "distinct_2": distinct_n(answers, 2),
        "repeated_3": repeated_ngram_share(answers, 3),
    }


def text_signatures(references: Sequence[Sequence[str]], tokens: Tokenization) -> dict[str, str]:
    """How `text_metrics` computes each figure, its language in it; numbers with one signature may be compared."""
    signatures = {
        "rouge1, rouge2, rougeL, rougeLsum": rouge_signature(words=tokens.words),
        "bleu": bleu_signature(references, tokenize=tokens.bleu),
        "bleu_lc": bleu_signature(references, lowercase=True, tokenize=tokens.bleu),
    }
    plain = {"chrf": chrf_signature(references)}
    plain |= {"length, distinct_2, repeated_3": "words:between white space, letters of scripts without spaces"}
    return {name: f"{text}|{tokens.signature}" for name, text in signatures.items()} | plain


def mean_scores(scores: Mapping[str, Grid]) -> dict[str, float]:
    """The expectation of each scorer's score over prompts and samples."""
    return {name: fmean(value for row in grid for value in row) for name, grid in scores.items()}


def _fold(flat: Sequence[float], like: Sequence[Sequence[str]]) -> Grid:
    values = iter(flat)
    return [[next(values) for _ in row] for row in like]
