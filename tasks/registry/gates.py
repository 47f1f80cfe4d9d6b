"""The gates between challenger and champion: figures in, findings out.

A policy becomes champion when every finding has passed. A gate whose param is null finds nothing; a figure that could
not be measured passes no gate: one that is not a number, or a fall from nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median_low
from typing import Any, NamedTuple

from tasks.figures import FIGURES, find
from tasks.params.register import RegisterParams
from tasks.roles import ROLES

RATE = FIGURES["win_rate"]
READ = {
    "win_rate": ("win_rate", "win_rate_low", "win_rate_high"),
    "lc_win_rate": ("lc_win_rate", "lc_win_rate_low", "lc_win_rate_high"),
    "rouge": ("policy.rougeL", "sft.rougeL"),
    "bleu": ("policy.bleu", "sft.bleu"),
    "kl": ("policy.kl",),
    "forgetting": ("policy_forgetting",),
}
"""By gate, the figures of an evaluation that it reads, its own first."""
DECISIONS_A_YEAR = 365
LIMITS = {
    "lc_win_rate": "min_lc_win_rate_low",
    "rouge": "max_rouge_drop",
    "bleu": "max_bleu_drop",
    "kl": "max_kl",
    "forgetting": "max_forgetting",
}
"""By gate, the param that bounds it; null switches it off."""
RATES = ("win_rate", "lc_win_rate")
"""The gates on a win rate over SFT, whose interval must lie above a bound."""


class Finding(NamedTuple):
    """The result of one gate: its name, whether the policy passed, and why, with the numbers."""

    name: str
    passed: bool
    text: str


class Rematch(NamedTuple):
    """The policy against the champion on the same prompts: win rate, its interval, and the champion's version.

    evidence: that the rate lies above min_win_rate_low (rlhf.evaluation.intervals.evidence_above).
    """

    version: int
    rate: float
    low: float
    high: float
    evidence: float = 0.0


def is_promoted(findings: Sequence[Finding]) -> bool:
    """Whether the policy passed every gate."""
    return all(finding.passed for finding in findings)


def reason(findings: Sequence[Finding]) -> str:
    """The decision in a sentence: every finding of a promotion, else those that failed."""
    promoted = is_promoted(findings)
    texts = [finding.text for finding in findings if promoted or not finding.passed]
    return f"{'promoted' if promoted else 'not promoted'}: {'; '.join(texts)}"


def judge_evaluation(metrics: Mapping[str, float], params: RegisterParams) -> list[Finding]:
    """Every gate that an evaluation's figures decide: win rates over SFT, ROUGE-L, BLEU, KL and forgetting.

    Raises:
        ValueError: a figure that a gate needs is missing.
    """
    bounds = {"win_rate": params.min_win_rate_low} | {gate: getattr(params, name) for gate, name in LIMITS.items()}
    limits = {gate: bound for gate, bound in bounds.items() if bound is not None}
    needed = [key for gate in limits for key in READ[gate]]
    if missing := [key for key in needed if key not in metrics]:
        raise ValueError(f"the evaluation lacks {', '.join(missing)}; run again: nightjar stage evaluate")
    findings = []
    for gate, limit in limits.items():
        if gate in RATES:
            rate, low, high = (metrics[key] for key in READ[gate])
            over = f"{FIGURES[gate].title} over {ROLES['sft'].title}"
            findings.append(_win_rate(gate, over, (rate, low, high), limit))
            continue
        judge = _drop if find(READ[gate][0]).higher_is_better else _rise
        findings.append(judge(gate, limit, *(metrics[key] for key in READ[gate])))
    return findings


def judge_rematch(rematch: Rematch | None, params: RegisterParams) -> Finding:
    """The gate against the champion; None is no champion to beat."""
    if rematch is None:
        return Finding("champion", True, "no other champion to beat")
    interval = rematch.rate, rematch.low, rematch.high
    return _win_rate("champion", f"{RATE.title} over champion {rematch.version}", interval, params.min_win_rate_low)


def judge_monitor(readings: Mapping[str, Any] | None, params: RegisterParams) -> list[Finding]:
    """The gate of the hacking monitor: it gave no warning of the policy that was kept.

    Args:
        readings: `kept_iteration` and `readings` with the `warnings` of each; None where nothing watched.
        params: with monitor_clean off there is no finding.
    """
    if not params.monitor_clean:
        return []
    if readings is None:
        return [Finding("monitor", True, "hacking not watched")]
    kept = readings["kept_iteration"]
    # A run that its KL stopped ends between two readings: the earlier one counts.
    last = max((row for row in readings["readings"] if row["iteration"] <= kept), key=lambda row: row["iteration"])
    if last["warnings"]:
        return [Finding("monitor", False, f"the monitor warned of iteration {kept}: {'; '.join(last['warnings'])}")]
    return [Finding("monitor", True, f"no sign of hacking at iteration {kept}")]


def judge_seeds(wanted: int, lows: Sequence[float], params: RegisterParams) -> Finding:
    """The gate against a lucky run: the settings win with the middle one of their seeds too (of two, with the worse).

    Args:
        wanted: how many seeds a night trains.
        lows: the lower bounds of the win rate over SFT, of the policy and of those that differ by seed alone.
        params: the bound is min_win_rate_low.
    """
    if wanted == 1:
        return Finding("steady", True, "one seed: steady over prompts, not known to be over seeds")
    if len(lows) < wanted:
        text = f"one seed of the {wanted} that night.seeds asks for; train and compare the others: nightjar run"
        return Finding("steady", False, text)
    low, floor = median_low(lows), params.min_win_rate_low
    text = f"lower bound over {ROLES['sft'].title} {RATE.show(low)} at the middle of {len(lows)} seeds"
    return Finding("steady", low > floor, f"{text} {'above' if low > floor else 'not above'} {floor:g}")


def judge_judge(figures: Mapping[str, float] | None, params: RegisterParams) -> list[Finding]:
    """The gate of who decided the win rate: people's test pairs say whether the judge knows better from worse.

    Args:
        figures: what reward measured of the judge; None where gold decided, or no person ranked.
        params: min_judge_accuracy; null finds nothing.
    """
    if figures is None or params.min_judge_accuracy is None:
        return []
    if "judge.accuracy_low" not in figures:
        return [Finding("judge", False, "the judge was not measured on people's pairs; run: nightjar stage reward")]
    rate, low, high = (figures[f"judge.accuracy{end}"] for end in ("", "_low", "_high"))
    passed, floor = low > params.min_judge_accuracy, params.min_judge_accuracy
    text = f"judge's accuracy on people's test pairs {find('accuracy').interval(rate, low, high)}"
    return [Finding("judge", passed, f"{text} {'above' if passed else 'not above'} {floor:g}")]


def judge_year(evidence: Sequence[float], decisions: int, params: RegisterParams) -> list[Finding]:
    """The gate that bounds false promotions a year: of each decision's share of them, 1/365, and no more decisions.

    A policy that is no better passes with a chance of false_promotions_a_year/365 at most, so that 365 decisions
    promote so many of them at most in expectation (Bonferroni), however alike the nights.

    Args:
        evidence: that the policy beats SFT, and the champion where there is one; the lesser counts.
        decisions: how many the gates took in the 365 days before.
        params: false_promotions_a_year; null finds nothing.
    """
    if (bound := params.false_promotions_a_year) is None:
        return []
    if decisions >= DECISIONS_A_YEAR:
        text = f"{decisions} decisions in a year have spent the {bound:g} false promotions that it may have"
        return [Finding("year", False, text)]
    least, needed = min(evidence), DECISIONS_A_YEAR / bound
    text = f"evidence {least:,.0f} {'reaches' if least >= needed else 'below'} {needed:,.0f}"
    return [Finding("year", least >= needed, f"{text} ({bound:g} false promotions a year)")]


def judge_rollback(why: str | None) -> list[Finding]:
    """A policy that a person rolled back is promoted by a person alone; `why` is None where nobody did."""
    text = f"rolled back before ({why}); to have it all the same: nightjar rollback --to its version"
    return [] if why is None else [Finding("rollback", False, text)]


def judge_retired(why: str | None) -> list[Finding]:
    """Weights that were retired stay so, whoever makes them again; `why` is None where nobody retired them."""
    return [] if why is None else [Finding("retired", False, f"retired before ({why}), and so are these same weights")]


def judge_drift(champion: str, drifted: Sequence[str] | None, params: RegisterParams) -> list[Finding]:
    """The gate of the data: they have not drifted from those that the champion learnt from.

    Args:
        champion: as people read it, `champion 3`; empty where nobody is.
        drifted: the figures that drifted from its data; None where its data are not known.
        params: with drift.gate off there is no finding.
    """
    if not params.drift.gate:
        return []
    if not champion:
        return [Finding("drift", True, "no champion from whose data tonight's could have drifted")]
    if drifted is None:
        text = (
            f"drift from {champion} is not known, for the profile of its data was not kept; to promote all the same, "
            "set register.drift.gate to false for a night"
        )
        return [Finding("drift", False, text)]
    if drifted:
        return [Finding("drift", False, f"the data drifted from {champion}'s: {', '.join(drifted)}")]
    return [Finding("drift", True, f"no drift from {champion}'s data")]


def _win_rate(name: str, title: str, interval: tuple[float, float, float], floor: float) -> Finding:
    rate, low, high = interval
    passed = low > floor
    text = f"{title} {RATE.interval(rate, low, high)} {'above' if passed else 'not above'} {floor:g}"
    return Finding(name, passed, text)


def _drop(gate: str, drop: float, policy: float, sft: float) -> Finding:
    """Of what is better when higher: the policy's may lie so far below SFT's."""
    figure = find(READ[gate][0])
    if sft <= 0.0:
        # No fall can be seen from there, whatever the policy writes.
        return Finding(
            gate, False, f"{figure.title} of {ROLES['sft'].title} {figure.show(sft)}: a fall is not measurable"
        )
    passed, floor = policy >= sft - drop, figure.show(sft - drop)
    less = f"{ROLES['sft'].title}'s {figure.show(sft)} less {drop:g}"
    bound = f"{'not below' if passed else 'below'} {floor} ({less})"
    return Finding(gate, passed, f"{figure.title} {figure.show(policy)} {bound}")


def _rise(gate: str, ceiling: float, value: float) -> Finding:
    """Of what is better when lower: it may be so high."""
    figure, passed = find(READ[gate][0]), value <= ceiling
    bound = f"{'within' if passed else 'above'} {ceiling:g} {figure.unit}"
    return Finding(gate, passed, f"{figure.title} {figure.show(value)} {bound}")
