"""Whether a difference of two systems on the same prompts is more than chance: sacreBLEU's paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rlhf.evaluation.language import Tokenization
from rlhf.evaluation.rouge import rouge_rows

RESAMPLES = 1000
SEED = 12345
"""sacreBLEU's, so that ROUGE is resampled as BLEU is."""


def paired_bootstrap(
    system: Sequence[float] | Float[np.ndarray, " N"],
    baseline: Sequence[float] | Float[np.ndarray, " N"],
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> float:
    """The two-sided p-value of a difference in means over the same N prompts.

    With d the difference and d* that of a resample of prompts: p = (1 + #{|d*| − mean |d*| > |d|}) / (1 + resamples).

    Source: Koehn 2004, Statistical Significance Tests for Machine Translation Evaluation; Riezler and Maxwell 2005, for
    the shift by the mean; as in sacreBLEU (Post 2018).

    Differs from: sacreBLEU, where systems without any difference get the smallest p; here they get 1.

    Raises:
        ValueError: the systems differ in their number of prompts, or there is none.
    """
    differences = (
        np.asarray(system, float) - np.asarray(baseline, float) if len(system) == len(baseline) else np.empty(0)
    )
    if not differences.size:
        raise ValueError(f"found {len(system)} and {len(baseline)} values; give both systems one for each prompt")
    if not differences.any():
        return 1.0
    drawn = np.random.default_rng(seed).choice(len(differences), size=(resamples, len(differences)), replace=True)
    means = np.abs(differences[drawn].mean(axis=1))
    beyond = np.count_nonzero(means - means.mean() > abs(differences.mean()))
    return float((beyond + 1) / (resamples + 1))


def text_differences(
    system: Sequence[str], baseline: Sequence[str], references: Sequence[Sequence[str]], tokens: Tokenization
) -> dict[str, float]:
    """The p-values of the differences of two systems' answers in ROUGE-L, BLEU and chrF (`paired_bootstrap`).

    BLEU and chrF are computed anew from the counts of each resample.

    Returns:
        `rougeL_p`, `bleu_p` and `chrf_p`, 0 to 1.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.significance import PairedTest

    from rlhf.evaluation.metrics.features import reference_streams

    rows = (rouge_rows(texts, references, words=tokens.words)["rougeL"] for texts in (system, baseline))
    figures = {"rougeL_p": paired_bootstrap(next(rows), next(rows))}
    if list(system) == list(baseline):
        return figures | {"bleu_p": 1.0, "chrf_p": 1.0}
    streams = reference_streams(references)
    metrics = {"BLEU": BLEU(force=True, tokenize=tokens.bleu, references=streams), "chrF2": CHRF(references=streams)}
    systems: list[tuple[str, Sequence[str]]] = [("baseline", list(baseline)), ("system", list(system))]
    results: dict[str, list[Any]] = PairedTest(systems, metrics, None, test_type="bs", n_samples=RESAMPLES)()[1]
    return figures | {"bleu_p": float(results["BLEU"][1].p_value), "chrf_p": float(results["chrF2"][1].p_value)}


def differences_signature() -> str:
    """How `text_differences` tests."""
    from importlib.metadata import version

    return f"paired bootstrap|two-sided|resamples:{RESAMPLES}|seed:{SEED}|sacrebleu:{version('sacrebleu')}"
