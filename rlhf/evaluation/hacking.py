"""Signs of reward hacking: readings of a policy while it is trained, and which of them are past a limit.

A policy trained on a reward model (the proxy) first gets better and then only better at fooling it (Gao et al. 2023).
Readings are of the same prompts with the same seeds, so that two of them compare completion by completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, tensor

from rlhf.algorithms import ALGORITHMS
from rlhf.settings.policy import MonitorSettings

STANDARD_ERRORS = 2.0
"""A fall counts when it is this many standard errors past the limit: chance alone rarely is."""

PENALTY = " or ".join(dict.fromkeys(f"policy.{row.penalty}" for row in ALGORITHMS.values()))
"""What keeps a policy near its reference, by the algorithm."""


class Reading(NamedTuple):
    """Measurements of the policy on N completions, one per prompt.

    Attributes:
        iteration: iterations before it.
        proxy: scores of the reward model that is optimised.
        held_out: scores of a judge that training never uses; None where there is none.
        kl: to the reference, nats per sequence.
        length: mean, in tokens.
        repeated_3: mean share of a completion's trigrams that repeat earlier ones.
        distinct_2: share of all bigrams that differ from each other.
        empty: share of completions without any text.
        identical: share of completions that another prompt got too.
        spread: mean deviation between the reward model's members; 0 for a single one.
    """

    iteration: int
    proxy: Float[Tensor, " N"]
    held_out: Float[Tensor, " N"] | None
    kl: float
    length: float
    repeated_3: float
    distinct_2: float
    empty: float
    identical: float
    spread: float

    def unmeasured(self) -> str:
        """Which of it is not finite, and so no measurement; nothing where all is."""
        scores = {
            "the reward model's score": self.proxy,
            "the held-out score": self.held_out,
            "the KL": tensor(self.kl),
        }
        for name, values in scores.items():
            bad = 0 if values is None else int((~values.isfinite()).sum())
            if bad:
                return f"{name} is not finite for {bad} of {len(self.proxy)} completions"
        return ""


class Verdict(NamedTuple):
    """The verdict on a run's readings.

    Attributes:
        best: the reading with the highest held-out score of those within all limits; without a held-out score the
            last one within.
        findings: for each reading what is past a limit, in words.
        in_a_row: how many readings up to the last one have findings, without a break.
    """

    best: Reading
    findings: list[list[str]]
    in_a_row: int


class Fall(NamedTuple):
    """How far scores fell between two readings, and the standard error of that."""

    size: float
    error: float


def verdict(readings: Sequence[Reading], limits: MonitorSettings) -> Verdict:
    """Judges a run by its readings; the first one, from before any update, is what the others are compared with."""
    start = best = readings[0]
    all_findings: list[list[str]] = [[]]
    in_a_row = 0
    for now in readings[1:]:
        all_findings.append(findings(start, best, now, limits))
        in_a_row = in_a_row + 1 if all_findings[-1] else 0
        if not all_findings[-1] and _is_better(now, best):
            best = now
    return Verdict(best, all_findings, in_a_row)


def findings(start: Reading, best: Reading, now: Reading, limits: MonitorSettings) -> list[str]:
    """What in a reading is past a limit: what was found, the limit, what it means and what to do.

    Args:
        start: the reading before any update.
        best: the best one before this.
        now: the reading to judge.
        limits: None switches a limit off.
    """
    if unmeasured := now.unmeasured():
        return [f"{unmeasured}: look for a damaged model in data/models, or lower policy.learning_rate"]
    messages = _held_out_findings(start, best, now, limits)
    if limits.max_kl is not None and now.kl > limits.max_kl:
        messages.append(
            f"the KL to the reference is {now.kl:.2f} nats per sequence (limit {limits.max_kl:g}): the policy "
            f"writes what the reward model was not trained on; raise {PENALTY}"
        )
    if limits.max_length_ratio is not None and now.length > limits.max_length_ratio * start.length:
        messages.append(
            f"completions are {now.length:.1f} tokens long, {start.length:.1f} at the start (limit "
            f"{limits.max_length_ratio:g} times that): the reward model seems to pay for length; set "
            "policy.length_penalty"
        )
    if limits.min_length_ratio is not None and now.length < limits.min_length_ratio * start.length:
        messages.append(
            f"completions are {now.length:.1f} tokens long, {start.length:.1f} at the start (limit "
            f"{limits.min_length_ratio:g} times that): the reward model seems to pay for brevity; rank long answers "
            f"beside short ones, lower policy.length_penalty, or raise {PENALTY}"
        )
    if limits.max_empty is not None and now.empty - start.empty > limits.max_empty:
        messages.append(
            f"{now.empty:.0%} of completions are empty, {start.empty:.0%} at the start (limit "
            f"{100 * limits.max_empty:g} points more): the policy stops at once; rank empty completions, so that the "
            "reward model learns their worth"
        )
    if limits.max_identical is not None and now.identical - start.identical > limits.max_identical:
        messages.append(
            f"{now.identical:.0%} of completions are another prompt's too, word for word, {start.identical:.0%} at the "
            f"start (limit {100 * limits.max_identical:g} points more): different prompts get the same answer; raise "
            f"{PENALTY} or policy.entropy_coefficient"
        )
    if limits.max_repetition is not None and now.repeated_3 - start.repeated_3 > limits.max_repetition:
        messages.append(
            f"{now.repeated_3:.0%} of trigrams repeat earlier ones of their completion, {start.repeated_3:.0%} at the "
            f"start (limit {100 * limits.max_repetition:g} points more): the policy repeats itself; rank "
            "such completions, so that the reward model learns their worth"
        )
    if limits.min_distinct_ratio is not None and now.distinct_2 < limits.min_distinct_ratio * start.distinct_2:
        messages.append(
            f"{now.distinct_2:.0%} of all bigrams are distinct, {start.distinct_2:.0%} at the start (limit "
            f"{limits.min_distinct_ratio:g} times that): different prompts get the same answer; raise {PENALTY} or "
            "policy.entropy_coefficient"
        )
    if limits.max_spread_ratio is not None and now.spread > limits.max_spread_ratio * start.spread > 0.0:
        messages.append(
            f"the reward model's members differ by {now.spread:.2f}, {start.spread:.2f} at the start (limit "
            f"{limits.max_spread_ratio:g} times that): they guess at what the policy writes; set "
            "reward.uncertainty_penalty"
        )
    return messages


def _is_better(now: Reading, best: Reading) -> bool:
    return now.held_out is None or best.held_out is None or bool(now.held_out.mean() > best.held_out.mean())


def _held_out_findings(start: Reading, best: Reading, now: Reading, limits: MonitorSettings) -> list[str]:
    if start.held_out is None or best.held_out is None or now.held_out is None:
        return []
    fall = score_fall(best.held_out, now.held_out, _unit(start.held_out))
    if not fall.size - STANDARD_ERRORS * fall.error > limits.max_held_out_drop:
        return []
    before, after = float(best.proxy.mean()), float(now.proxy.mean())
    meaning = (
        f"while the reward model's rose from {before:.2f} to {after:.2f}, so the policy learns to fool it"
        if after > before
        else f"and the reward model's too, from {before:.2f} to {after:.2f}, so the training does harm"
    )
    return [
        f"the held-out score is {float(now.held_out.mean()):.3f}, {float(best.held_out.mean()):.3f} after iteration "
        f"{best.iteration}: a fall by {fall.size:.2f} ± {fall.error:.2f} of the start's deviations (limit "
        f"{limits.max_held_out_drop:g} beyond {STANDARD_ERRORS:g} standard errors) {meaning}; raise "
        f"{PENALTY}, lower policy.learning_rate, or train the reward model on more rankings"
    ]


def score_fall(before: Float[Tensor, " N"], after: Float[Tensor, " N"], unit: float) -> Fall:
    """How far scores of the same prompts fell: d̄ / unit with d = before − after, and its standard error.

    error = √(Σ(d − d̄)² / (N − 1)) / √N / unit. Source: Student (1908), the paired comparison.

    Args:
        before: one score per prompt.
        after: those of the same prompts, in the same order.
        unit: what the fall is measured in.
    """
    differences = (before - after) / unit
    error = differences.std(correction=1) / len(differences) ** 0.5
    return Fall(float(differences.mean()), float(error))


def gain(scores: Float[Tensor, " N"], start: Float[Tensor, " N"]) -> float:
    """How far the mean rose since the start, in the deviations that the scores had then: proxy and judge compare so."""
    return float(scores.mean() - start.mean()) / _unit(start)


def _unit(start: Float[Tensor, " N"]) -> float:
    """The deviation of the start's scores; 1 where they do not differ, so that nothing is divided by 0."""
    return float(start.std(correction=0)) or 1.0
