"""What the gates on win rates promise, simulated: how often a policy that is no better passes, and a better one.

python -m tests.rlhf.evaluation.gates 10000      # the tables of docs/decisions.md, of so many nights a cell
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, product

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, t

from rlhf.evaluation.intervals import chance_below
from rlhf.evaluation.length_control import length_controlled_win_rate
from rlhf.evaluation.winrate import win_shares

PROMPTS = (5, 8, 10, 20, 50, 69, 100, 300, 500)
SAMPLES = (1, 2, 3, 4)
EVEN, TAIL = 0.5, 0.025
YEAR = 365
RESAMPLES = 200

LENGTHS = {"blind": (1.0, 0.0, 0.0), "suited": (1.0, 0.0, 1.0), "paid": (0.5, 1.0, 0.0), "padded": (2.0, 1.0, 0.0)}
"""Nulls whose lengths differ: how many deviations longer the policy's completions are; what the judge gives for one, in
logits of a win; and the deviation, in logits, of how well a prompt suits the policy.
"""

Null = Callable[[int], np.ndarray]
"""By samples per prompt S, the chances of each share that S against S can have, 0 to 1 in steps of ½/S²; mean ½."""


def shares(samples: int) -> np.ndarray:
    """All shares of wins that so many samples can have."""
    return np.linspace(0.0, 1.0, 2 * samples**2 + 1)


def _chances(policy: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    samples = policy.shape[1]
    found = np.rint(win_shares(policy, baseline) * 2 * samples**2).astype(int)
    return np.bincount(found, minlength=2 * samples**2 + 1) / len(found)


def smooth(samples: int) -> np.ndarray:
    """Scores without ties: every order of the policy's and the baseline's is as likely."""
    policy = list(combinations(range(2 * samples), samples))
    baseline = [sorted(set(range(2 * samples)) - set(ranks)) for ranks in policy]
    return _chances(np.array(policy, float), np.array(baseline, float))


def tied(samples: int) -> np.ndarray:
    """Scores of three values, so that a third of the comparisons are ties."""
    rows = np.array(list(product(range(3), repeat=2 * samples)), float)
    return _chances(rows[:, :samples], rows[:, samples:])


def alike(samples: int) -> np.ndarray:
    """Nine prompts of ten are tied, the others won or lost."""
    return np.where(shares(samples) == EVEN, 0.9, 0.0) + whole(samples) / 10


def split(samples: int) -> np.ndarray:
    """Scores of three values; on half of the prompts the policy's are one higher, on the other half one lower."""
    rows = np.array(list(product(range(3), repeat=2 * samples)), float)
    better = _chances(rows[:, :samples] + 1, rows[:, samples:])
    return (better + better[::-1]) / 2


def whole(samples: int) -> np.ndarray:
    """Prompts are won or lost with all samples."""
    return np.where(np.isin(shares(samples), (0.0, 1.0)), 0.5, 0.0)


def rare(samples: int) -> np.ndarray:
    """Mostly the least share above one half, ½ + ½/S², and rarely all lost."""
    chances, share = np.zeros(2 * samples**2 + 1), EVEN + 0.5 / samples**2
    chances[samples**2 + 1] = EVEN / share
    chances[0] = 1 - EVEN / share
    return chances


def lucky(samples: int) -> np.ndarray:
    """Mostly the greatest share below one half, and rarely all won."""
    return rare(samples)[::-1]


NULLS: dict[str, Null] = {null.__name__: null for null in (smooth, tied, alike, split, whole, rare, lucky)}


def better(null: Null, samples: int, rate: float) -> np.ndarray:
    """The chances of a null's shares, tilted until their mean is a rate: pᵢ·exp(θ·xᵢ) over their sum."""
    even, grid = null(samples), shares(samples)

    def tilted(theta: float) -> np.ndarray:
        chances: np.ndarray = even * np.exp(theta * grid)
        return chances / chances.sum()

    return tilted(brentq(lambda theta: float(tilted(theta) @ grid) - rate, 0.0, 100.0))


def draw(chances: np.ndarray, prompts: int, nights: int) -> np.ndarray:
    """[nights, K] how many prompts of a night have each share."""
    return np.random.default_rng((prompts, len(chances))).multinomial(prompts, chances, nights)


Way = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Nights' counts [B, K] and the shares [K] to whether each promotes [B]."""


def chances_even(counts: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Of each night, the chance that its weighted mean lies at ½ or below; 1 where its rate does not lie above."""
    rows, where = np.unique(counts, axis=0, return_inverse=True)
    found, above = np.ones(len(rows)), rows @ grid > EVEN * rows.sum(axis=1)
    seen = rows[above].any(axis=0)
    found[above] = chance_below(grid[seen], rows[above][:, seen], EVEN)
    return found[where]


def used(counts: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """By the interval that decides: `share_interval`."""
    return chances_even(counts, grid) < TAIL


def percentile(counts: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """By the percentile bootstrap."""
    return np.quantile(_resampled(counts, grid), TAIL, axis=0) > EVEN


def bca(counts: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """By the bias-corrected and accelerated bootstrap (Efron 1987); where all agree, by their value."""
    number, rate = counts.sum(axis=1), counts @ grid / counts.sum(axis=1)
    away = grid - rate[:, None]
    spread, skew = ((counts * away**power).sum(axis=1) for power in (2, 3))
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = np.where(spread > 0, skew / (6 * spread**1.5), 0.0)
        means = _resampled(counts, grid)
        bias = norm.ppf((means < rate - 1e-9).mean(axis=0) + (abs(means - rate) < 1e-9).mean(axis=0) / 2)
        start = bias + norm.ppf(TAIL)
        tails = norm.cdf(bias + start / (1 - speed * start))
    places = np.floor(np.nan_to_num(tails) * RESAMPLES).astype(int).clip(0, RESAMPLES - 1)
    lows = np.sort(means, axis=0)[places, np.arange(len(number))]
    return np.where(spread > 0, lows, rate) > EVEN


def student(counts: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """By Student's t over prompts."""
    number, rate = counts.sum(axis=1), counts @ grid / counts.sum(axis=1)
    deviation = np.sqrt((counts * (grid - rate[:, None]) ** 2).sum(axis=1) / (number - 1))
    return rate - t.ppf(1 - TAIL, number - 1) * deviation / np.sqrt(number) > EVEN


def a_year(bound: float) -> Way:
    """By the interval, and by evidence of 365 over a year's bound."""
    return lambda counts, grid: chances_even(counts, grid) <= min(TAIL, bound / YEAR)


def _resampled(counts: np.ndarray, grid: np.ndarray) -> np.ndarray:
    number = int(counts[0].sum())
    generator = np.random.default_rng(0)
    return np.array([generator.multinomial(number, counts / number) @ grid / number for _ in range(RESAMPLES)])


def at_equal_lengths(null: str, samples: int, prompts: int, nights: int) -> str:
    """Of nights whose policy is no better at equal lengths, in %: whose interval lies above ½ (and whose holds ½).

    Scores are b·length + Gumbel, so that a sample beats another with the chance σ(b·difference + how well it suits).
    """
    (longer, pay, suited), generator = LENGTHS[null], np.random.default_rng((prompts, samples))
    above = held = 0
    for _ in range(nights):
        lengths = generator.normal(size=(2, prompts, samples))
        lengths[0] += longer
        scores = pay * lengths + generator.gumbel(size=lengths.shape)
        scores[0] += suited * generator.normal(size=(prompts, 1))
        found = length_controlled_win_rate(*scores, *lengths)
        above += found.low > EVEN
        held += found.low <= EVEN <= found.high
    return f"{100 * above / nights:.1f} ({100 * held / nights:.1f})"


def promotions(way: Way, chances: np.ndarray, prompts: int, nights: int) -> float:
    """The share of nights that promote."""
    return float(way(draw(chances, prompts, nights), np.linspace(0.0, 1.0, len(chances))).mean())


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Prints it in Markdown."""
    print(f"| {' | '.join(map(str, head))} |\n{'|---' * len(head)}|")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)
    print()


def main(nights: int) -> None:
    """Prints the tables: of so many nights a cell, a fourth with bootstraps or lengths, nights/100 years."""

    def percents(ways: Iterable[Way], chances: np.ndarray, prompts: int, nights: int) -> list[str]:
        return [f"{100 * promotions(way, chances, prompts, nights):.1f}" for way in ways]

    cells = [(name, samples, null(samples)) for name, null in NULLS.items() for samples in SAMPLES]
    table(
        ("null", "samples", *PROMPTS),
        ([name, samples, *(percents([used], chances, prompts, nights)[0] for prompts in PROMPTS)]
         for name, samples, chances in cells if (chances != whole(samples)).any() or (name, samples) == ("whole", 1)),
    )  # fmt: skip
    ways = {"percentile": percentile, "BCa": bca, "Student's t": student, "used": used}
    table(
        ("null", "samples", "prompts", *ways),
        ([name, samples, prompts, *percents(ways.values(), NULLS[name](samples), prompts, nights // 4)]
         for name in ("smooth", "tied", "rare") for samples in (1, 4) for prompts in (5, 20, 50, 300)),
    )  # fmt: skip
    bounds = {"percentile": percentile, "used": used, "1 a year": a_year(1.0), "0.1 a year": a_year(0.1)}
    table(
        ("true rate", "prompts", *bounds),
        ([rate, prompts, *percents(bounds.values(), better(smooth, 2, rate), prompts, nights // 4)]
         for rate in (0.6, 0.7, 0.8) for prompts in (20, 50, 100, 300)),
    )  # fmt: skip
    del bounds["percentile"]
    year = nights // 100 * YEAR
    table(
        ("null", "prompts", *bounds),
        ([name, prompts, *(f"{YEAR * promotions(way, null(2), prompts, year):.2f}" for way in bounds.values())]
         for name, null in NULLS.items() for prompts in (20, 100)),
    )  # fmt: skip
    prompts = (5, 10, 20, 50, 100, 300)
    table(
        ("null", "samples", *prompts),
        ([name, samples, *(at_equal_lengths(name, samples, number, nights // 4) for number in prompts)]
         for name in LENGTHS for samples in (1, 4)),
    )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]))
