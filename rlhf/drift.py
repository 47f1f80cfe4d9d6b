"""Whether tonight's data are like those before: two-sample tests that hold at any size, and all of them together.

Each test compares rows that are independent of each other, one a prompt: tonight's new ones with a baseline's. It
says how far apart the two are, and how likely so much would be had nothing drifted. What is drawn at random is drawn
from a seed, so that the same data give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

RESAMPLES = 4999
"""Random divisions of the rows; the smallest p is 1 / (RESAMPLES + 1)."""
DIVISIONS_AT_ONCE = 256
ENOUGH = 20
"""Divisions at least as far apart, after which no more are drawn: p is not small, and known well enough."""
MIN_TEXTS = 10
"""Scores of fewer texts are not compared: the approximations are not made for them."""


class Shift(NamedTuple):
    """What one test says.

    Attributes:
        distance: how far the two samples lie apart; 0 where they are alike.
        p: the chance of at least so much where both are drawn from one distribution, or, of two models' scores,
            where they lie just at the bound.
    """

    distance: float
    p: float


def value_shift(baseline: Sequence[float], fresh: Sequence[float]) -> Shift:
    """Kolmogorov's and Smirnov's test on numbers: D = max_x |F(x) − G(x)|, of the two empirical distributions.

    Exact where both samples are small; equal numbers make p too large, never too small.

    Source: Hodges 1958, The significance probability of the Smirnov two-sample test.

    Args:
        baseline: a number per row.
        fresh: a number per new row.

    Raises:
        ValueError: one of the two is empty.
    """
    _require(len(baseline), len(fresh))
    from scipy.stats import ks_2samp

    # Beyond a million couples the limit is as good, and the exact count may not succeed.
    method = "exact" if len(baseline) * len(fresh) <= 1_000_000 else "asymp"
    result = ks_2samp(baseline, fresh, method=method)
    return Shift(float(result.statistic), float(result.pvalue))


def mean_shift(baseline: Sequence[float], fresh: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> Shift:
    """A permutation test on shares: |x̄ − ȳ| among random divisions of all rows into two samples of these sizes.

    p = (1 + #{divisions at least as far apart}) / (1 + resamples), which is at most α with probability α.

    Source: Phipson and Smyth 2010, Permutation p-values should never be zero.

    Args:
        baseline: a number per row.
        fresh: a number per new row.
        resamples: random divisions.
        seed: of the divisions.

    Raises:
        ValueError: one of the two is empty.
    """
    _require(len(baseline), len(fresh))
    values, counts = np.unique([*baseline, *fresh], return_counts=True)
    total = float(counts @ values)

    def distance(sums: Float[np.ndarray, " R"]) -> Float[np.ndarray, " R"]:
        return np.abs(sums / len(fresh) - (total - sums) / len(baseline))

    # Which rows are drawn tells no more than how often each value is.
    drawn = np.random.default_rng(seed).multivariate_hypergeometric(counts, len(fresh), resamples, "marginals")
    observed = float(distance(np.array([math.fsum(fresh)]))[0])
    return Shift(observed, _p(distance(drawn @ values), observed))


def share_shift(
    baseline: Mapping[str, int], fresh: Mapping[str, int], resamples: int = RESAMPLES, seed: int = 0
) -> Shift:
    """Pearson's χ² on how often each kind occurs, among random tables with the same margins: no count is too small.

    The distance is the total variation, ½ Σ_k |p_k − q_k|.

    Source: Patefield 1981, An efficient method of generating random R × C tables with given row and column totals.

    Args:
        baseline: rows of each kind.
        fresh: new rows of each kind.
        resamples: random tables.
        seed: of the tables.

    Raises:
        ValueError: one of the two is empty.
    """
    kinds = sorted({*baseline, *fresh})
    before, after = (np.array([rows.get(kind, 0) for kind in kinds]) for rows in (baseline, fresh))
    _require(int(before.sum()), int(after.sum()))
    columns, share = before + after, after.sum() / (before.sum() + after.sum())

    def chi_square(rows: Int[np.ndarray, "R C"]) -> Float[np.ndarray, " R"]:
        # Both rows of the table are off by as much: its χ² is this over share · (1 − share), the same for all.
        return np.asarray(((rows - share * columns) ** 2 / columns).sum(1))

    drawn = np.random.default_rng(seed).multivariate_hypergeometric(columns, after.sum(), resamples, "marginals")
    distance = 0.5 * float(np.abs(before / before.sum() - after / after.sum()).sum())
    return Shift(distance, _p(chi_square(drawn), float(chi_square(after[None])[0])))


def word_shift(
    baseline: Sequence[Sequence[int]], fresh: Sequence[Sequence[int]], resamples: int = RESAMPLES, seed: int = 0
) -> Shift:
    """Jensen and Shannon's distance of word frequencies, among random divisions of the texts.

    √(½ KL(p‖m) + ½ KL(q‖m)) in bits, m = ½ (p + q): 0 to 1. Texts are divided, not words, for the words of a text
    are no independent draws. With ENOUGH divisions as far apart after l of them, p = ENOUGH / l.

    Source: Lin 1991, Divergence measures based on the Shannon entropy; Endres and Schindelin 2003 for the root;
    Besag and Clifford 1991, Sequential Monte Carlo p-values.

    Args:
        baseline: the numbers of its words for each text, from 0 on.
        fresh: the same for each new text.
        resamples: random divisions.
        seed: of the divisions.

    Raises:
        ValueError: one of the two holds no word.
    """
    _require(sum(map(len, baseline)), sum(map(len, fresh)))
    from scipy.sparse import csr_array

    texts = [*baseline, *fresh]
    words, columns = np.unique(np.concatenate([np.asarray(text, int) for text in texts]), return_inverse=True)
    ends = np.cumsum([0, *map(len, texts)])
    counts = csr_array((np.ones(len(columns)), columns, ends), shape=(len(texts), len(words)))
    total = np.asarray(counts.sum(0))

    def distance(chosen: Float[np.ndarray, "R N"]) -> Float[np.ndarray, " R"]:
        after = np.asarray((counts.T @ chosen.T).T)
        return _jensen_shannon(total - after, after)

    mask = np.arange(len(texts)) >= len(baseline)
    observed = float(distance(mask[None].astype(float))[0])
    generator, far = np.random.default_rng(seed), 0
    for start in range(0, resamples, DIVISIONS_AT_ONCE):
        masks = np.tile(mask, (min(DIVISIONS_AT_ONCE, resamples - start), 1))
        reached = far + np.cumsum(_as_far(distance(generator.permuted(masks, axis=1).astype(float)), observed))
        if reached[-1] >= ENOUGH:
            return Shift(observed, ENOUGH / (start + 1 + int(np.argmax(reached >= ENOUGH))))
        far = int(reached[-1])
    return Shift(observed, (1 + far) / (1 + resamples))


def rank_shift(baseline: Sequence[float], scores: Sequence[float], bound: float) -> Shift:
    """Whether two models' scores of the same texts agree in order less than a bound: Spearman's ρ below it.

    Two models are never one, so the null is a bound: with Fisher's z = atanh ρ, whose variance is 1.06 / (n − 3),
    p = Φ((z − atanh bound) / √(1.06 / (n − 3))). The distance is ½ (1 − ρ).

    Source: Fieller, Hartley and Pearson 1957, Tests for rank correlation coefficients I.

    Args:
        baseline: a score per text, of the model before.
        scores: of tonight's.
        bound: the least ρ that is no drift.

    Raises:
        ValueError: fewer than 10 texts, for which the approximation is not made.
    """
    _require_texts(baseline, scores)
    from scipy.stats import norm, spearmanr

    # Who scores all texts alike agrees with nobody.
    is_flat = bool(min(np.ptp(baseline), np.ptp(scores)) == 0.0)
    rho = 0.0 if is_flat else float(spearmanr(baseline, scores).statistic)
    off = math.atanh(max(-0.999999, min(0.999999, rho))) - math.atanh(bound)
    return Shift(0.5 * (1.0 - rho), float(norm.cdf(off / math.sqrt(1.06 / (len(scores) - 3)))))


def level_shift(baseline: Sequence[float], scores: Sequence[float], bound: float) -> Shift:
    """Whether two models' scores of the same texts differ in level by more than a bound: Student's t on pairs.

    dᵢ = (yᵢ − xᵢ) / s_x; t = (|d̄| − bound) / (s_d / √n) with n − 1 degrees of freedom. The distance is |d̄|, in
    deviations of the baseline's scores.

    Args:
        baseline: a score per text, of the model before.
        scores: of tonight's.
        bound: the largest |d̄| that is no drift.

    Raises:
        ValueError: fewer than 10 texts.
    """
    _require_texts(baseline, scores)
    from scipy.stats import t as student

    before, after = np.asarray(baseline, float), np.asarray(scores, float)
    deviation = float(before.std(ddof=1)) or 1.0
    differences = (after - before) / deviation
    level, spread = abs(float(differences.mean())), float(differences.std(ddof=1))
    if spread == 0.0:
        return Shift(level, float(level <= bound))
    return Shift(level, float(student.sf((level - bound) / (spread / math.sqrt(len(after))), len(after) - 1)))


def holm(values: Sequence[float]) -> list[float]:
    """p-values of one family, adjusted: to call drift what is at most α errs at all with probability at most α.

    p̃₍ᵢ₎ = max_{j ≤ i} min(1, (m − j + 1) p₍ⱼ₎), whatever the figures' dependence on each other.

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.

    Args:
        values: the m p-values.
    """
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted


def _jensen_shannon(before: Float[np.ndarray, "R V"], after: Float[np.ndarray, "R V"]) -> Float[np.ndarray, " R"]:
    p, q = (counts / counts.sum(1, keepdims=True) for counts in (before, after))
    middle = 0.5 * (p + q)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = [np.where(each > 0, each * np.log2(each / middle), 0.0).sum(1) for each in (p, q)]
    return np.sqrt(np.maximum(0.5 * (terms[0] + terms[1]), 0.0))


def _p(drawn: Float[np.ndarray, " R"], observed: float) -> float:
    return float((1 + np.count_nonzero(_as_far(drawn, observed))) / (1 + len(drawn)))


def _as_far(drawn: Float[np.ndarray, " R"], observed: float) -> Bool[np.ndarray, " R"]:
    # What differs from the observed by rounding alone is as far.
    return np.asarray(drawn >= observed - 1e-9 * max(1.0, abs(observed)))


def _require(baseline: int, fresh: int) -> None:
    if not (baseline and fresh):
        raise ValueError(f"found {baseline} values before and {fresh} new ones; give at least 1 of each")


def _require_texts(baseline: Sequence[float], scores: Sequence[float]) -> None:
    if len(baseline) != len(scores) or len(scores) < MIN_TEXTS:
        raise ValueError(
            f"found {len(baseline)} and {len(scores)} scores; give two of each of at least {MIN_TEXTS} texts"
        )
