"""What the win rate's gate promises, simulated: how often a policy that is no better passes it.

python -m tests.rlhf.evaluation.gates            # the tables of docs/decisions.md
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import bootstrap, t

from rlhf.evaluation.intervals import evidence_above, mean_interval, share_interval
from rlhf.evaluation.winrate import FEW, win_shares

Draw = Callable[[np.random.Generator, int, int], np.ndarray]
YEAR, YEARS = 365, 2
RESAMPLES = 200


def _scores(draw: Callable[[tuple[int, int]], np.ndarray], prompts: int, samples: int) -> np.ndarray:
    return win_shares(draw((prompts, samples)), draw((prompts, samples)))


def smooth(generator: np.random.Generator, prompts: int, samples: int) -> np.ndarray:
    """Scores without ties."""
    return _scores(lambda shape: generator.normal(size=shape), prompts, samples)


def tied(generator: np.random.Generator, prompts: int, samples: int) -> np.ndarray:
    """Scores of three values, so that a third of the comparisons are ties."""
    return _scores(lambda shape: generator.integers(0, 3, shape).astype(float), prompts, samples)


def split(generator: np.random.Generator, prompts: int, samples: int) -> np.ndarray:
    """On half of the prompts the policy is far better, on the other half far worse."""
    shift = generator.choice([-2.0, 2.0], (prompts, 1))
    policy = generator.normal(size=(prompts, samples)) + shift
    return win_shares(policy, generator.normal(size=(prompts, samples)))


def rare(generator: np.random.Generator, prompts: int, samples: int) -> np.ndarray:
    """Mostly the least share above one half, ½ + ½/S², and rarely all lost: the mean is ½."""
    share = 0.5 + 0.5 / samples**2
    return np.where(generator.random(prompts) < 0.5 / share, share, 0.0)


NULLS: dict[str, Draw] = {"smooth": smooth, "tied": tied, "split": split, "rare": rare}


def percentile(shares: np.ndarray) -> float:
    """The lower end of the percentile bootstrap's interval."""
    return mean_interval(shares, RESAMPLES).low


def bca(shares: np.ndarray) -> float:
    """That of the bias-corrected and accelerated bootstrap; where all agree, their value."""
    if np.ptp(shares) == 0:
        return float(shares[0])
    found = bootstrap((shares,), np.mean, n_resamples=RESAMPLES, method="BCa", rng=np.random.default_rng(0))
    return float(np.nan_to_num(found.confidence_interval.low, nan=shares.min()))


def student(shares: np.ndarray) -> float:
    """That of Student's t over prompts."""
    count = len(shares)
    return float(shares.mean() - t.ppf(0.975, count - 1) * shares.std(ddof=1) / np.sqrt(count))


def used(shares: np.ndarray) -> float:
    """That of the interval which decides."""
    return (share_interval(shares) if len(shares) < FEW else mean_interval(shares, RESAMPLES)).low


def false_promotions(
    lower: Callable[[np.ndarray], float], null: Draw, prompts: int, samples: int, nights: int
) -> float:
    """The share of nights whose lower end lies above even though the policy is no better."""
    generator = np.random.default_rng(prompts * 10 + samples)
    return float(np.mean([lower(null(generator, prompts, samples)) > 0.5 for _ in range(nights)]))


def a_year(bound: float | None, null: Draw, prompts: int, samples: int, years: int) -> float:
    """How many of a year's 365 nights promote a policy that is no better; with a bound, or by the interval alone."""
    generator, count = np.random.default_rng(0), 0
    for _ in range(years * YEAR):
        shares = null(generator, prompts, samples)
        count += used(shares) > 0.5 and (bound is None or evidence_above(shares, 0.5) >= YEAR / bound)
    return count / years


def main() -> None:
    """Prints the tables."""
    ways = {"percentile": percentile, "BCa": bca, "Student's t": student, "used": used}
    print(f"| null | prompts | samples | {' | '.join(ways)} |\n|---|---|---|{'---|' * len(ways)}")
    for name, null in NULLS.items():
        for prompts in (5, 20, 50, 300):
            for samples in (1, 4):
                rates = [100 * false_promotions(way, null, prompts, samples, 1000) for way in ways.values()]
                print(f"| {name} | {prompts} | {samples} | {' | '.join(f'{rate:.1f}' for rate in rates)} |", flush=True)
    print("\n| null | prompts | no bound | 1 a year | 0.1 a year |\n|---|---|---|---|---|")
    for name, null in NULLS.items():
        for prompts in (20, 100):
            rates = [a_year(bound, null, prompts, 2, YEARS) for bound in (None, 1.0, 0.1)]
            print(f"| {name} | {prompts} | {' | '.join(f'{rate:.2f}' for rate in rates)} |", flush=True)


if __name__ == "__main__":
    main()
