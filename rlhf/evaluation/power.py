"""What a night's test prompts can tell: the win rate that they would show, and how often they would show one."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from rlhf.evaluation.intervals import Interval

ASKED = 0.6
"""A win rate that is worth a promotion: it should be found in 8 nights of 10."""
ENOUGH = 0.8


def detectable(shares: Float[np.ndarray, " N"], interval: Interval, floor: float = 0.5, power: float = ENOUGH) -> float:
    """The true win rate whose interval lies above the floor with this chance: floor + h + z·s/√N, at most 1.

    h is how far this night's lower end lies below its rate, s the spread of its shares: those of a policy that is as
    uneven over prompts. A share of 0 and one of 1 are added to s, so that shares that all agree have some.

    Source: the normal approximation of power, e.g. Cohen 1988, Statistical Power Analysis, section 2.2.

    Args:
        shares: [N] each prompt's share of wins.
        interval: the win rate's.
        floor: what its lower end must exceed.
        power: the chance, between 0 and 1.
    """
    wanted = floor + (interval.value - interval.low) + NormalDist().inv_cdf(power) * _standard_error(shares)
    return float(min(wanted, 1.0))


def power_at(shares: Float[np.ndarray, " N"], interval: Interval, rate: float = ASKED, floor: float = 0.5) -> float:
    """The chance that a policy with this true win rate has its interval above the floor: Φ((rate − floor − h)·√N/s)."""
    gap = rate - floor - (interval.value - interval.low)
    return NormalDist().cdf(gap / _standard_error(shares))


def warning(prompts: int, power: float, detected: float) -> str | None:
    """What to say where so many prompts may leave a better policy unseen; None where they are enough.

    Args:
        prompts: how many there are.
        power: `power_at` the rate ASKED.
        detected: the rate that is `detectable`.
    """
    if power >= ENOUGH:
        return None
    return (
        f"few test prompts: with these {prompts}, a policy whose true win rate is {ASKED:g} is found better in "
        f"{power:.0%} of nights, and only one of {detected:.2f} in {ENOUGH:.0%}; give more, or raise evaluate.samples"
    )


def _standard_error(shares: Float[np.ndarray, " N"]) -> float:
    return float(np.std([*shares, 0.0, 1.0])) / sqrt(len(shares))
