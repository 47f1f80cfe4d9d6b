"""The gates: each one's edge, its sentence, and what is off or was not measured."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tasks.params.register import RegisterParams
from tasks.params.whole import Params
from tasks.registry import gates
from tasks.registry.gates import Finding, Rematch

EVERY = RegisterParams(
    min_win_rate_low=0.5,
    min_lc_win_rate_low=0.5,
    max_rouge_drop=0.02,
    max_bleu_drop=1.0,
    max_kl=10.0,
    max_forgetting=0.1,
    monitor_clean=True,
)
PASSING = {
    "win_rate": 0.93,
    "win_rate_low": 0.90,
    "win_rate_high": 0.96,
    "lc_win_rate": 0.8,
    "lc_win_rate_low": 0.7,
    "lc_win_rate_high": 0.9,
    "policy.rougeL": 0.60,
    "sft.rougeL": 0.58,
    "policy.bleu": 24.0,
    "sft.bleu": 23.5,
    "policy.kl": 2.6,
    "policy_forgetting": 0.04,
}


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({}, []),
        ({"win_rate_low": 0.5001}, []),
        ({"win_rate_low": 0.5}, ["win_rate"]),  # must lie above
        ({"lc_win_rate_low": 0.5}, ["lc_win_rate"]),
        ({"lc_win_rate_low": math.nan}, ["lc_win_rate"]),
        ({"policy.rougeL": 0.5601}, []),
        ({"policy.rougeL": 0.5599}, ["rouge"]),
        ({"policy.bleu": 22.5}, []),  # 23.5 − 1 exactly
        ({"policy.bleu": 22.49}, ["bleu"]),
        ({"policy.kl": 10.0}, []),  # may equal the ceiling
        ({"policy.kl": 10.1}, ["kl"]),
        ({"policy_forgetting": 0.1}, []),
        ({"policy_forgetting": 0.1001}, ["forgetting"]),
        *(({name: math.nan}, [gate]) for name, gate in (("win_rate_low", "win_rate"), ("policy.rougeL", "rouge"))),
        *(({name: math.nan}, [gate]) for name, gate in (("sft.bleu", "bleu"), ("policy.kl", "kl"))),
        ({"policy_forgetting": math.nan}, ["forgetting"]),
        ({"sft.rougeL": 0.0, "policy.rougeL": 0.0}, ["rouge"]),  # nothing below SFT's could be measured
        ({"sft.bleu": 0.0}, ["bleu"]),
        ({"policy.kl": 12.0, "win_rate_low": 0.4}, ["win_rate", "kl"]),
    ],
)
def test_every_gate_has_its_edge(change: dict[str, float], failing: list[str]) -> None:
    """One figure at a time crosses its bound, .50 for the win rates, .58 − .02 for ROUGE-L, 23.5 − 1 for BLEU, 10 nats
    for KL, .1 for forgetting; what is not a number, or a fall from nothing, passes nothing.
    """
    findings = gates.judge_evaluation({**PASSING, **change}, EVERY)
    assert [finding.name for finding in findings] == ["win_rate", "lc_win_rate", "rouge", "bleu", "kl", "forgetting"]
    assert [finding.name for finding in findings if not finding.passed] == failing
    assert gates.is_promoted(findings) == (not failing)


def test_a_promotion_gives_all_findings_and_a_refusal_those_that_failed() -> None:
    """Each with its figure and its bound."""
    assert gates.reason(gates.judge_evaluation(PASSING, EVERY)) == (
        "promoted: win rate over SFT 0.930 [0.900, 0.960] above 0.5; "
        "length-controlled win rate over SFT 0.800 [0.700, 0.900] above 0.5; "
        "ROUGE-L 0.6000 not below 0.5600 (SFT's 0.5800 less 0.02); BLEU 24.00 not below 22.50 (SFT's 23.50 less 1); "
        "KL 2.60 within 10 nats; forgetting 0.040 within 0.1 nats per token"
    )
    worse = {**PASSING, "policy.kl": 12.1, "win_rate_low": 0.4, "policy.bleu": 22.0}
    assert gates.reason(gates.judge_evaluation(worse, EVERY)) == (
        "not promoted: win rate over SFT 0.930 [0.400, 0.960] not above 0.5; "
        "BLEU 22.00 below 22.50 (SFT's 23.50 less 1); KL 12.10 above 10 nats"
    )


def test_a_gate_whose_param_is_null_is_off() -> None:
    """It finds nothing, and its figure need not be there; the win rate is always asked for."""
    off = RegisterParams(max_rouge_drop=None, max_bleu_drop=None, max_kl=None, max_forgetting=None, monitor_clean=False)
    only = {name: value for name, value in PASSING.items() if name.startswith("win_rate")}
    assert [finding.name for finding in gates.judge_evaluation(only, off)] == ["win_rate"]
    assert gates.judge_monitor({"kept_iteration": 1, "readings": []}, off) == []


@pytest.mark.parametrize("name", PASSING)
def test_a_missing_figure_is_named(name: str) -> None:
    """With the command that measures it."""
    figures = {key: value for key, value in PASSING.items() if key != name}
    with pytest.raises(ValueError, match=rf"lacks {name}; run again: nightjar stage evaluate"):
        gates.judge_evaluation(figures, EVERY)


@pytest.mark.parametrize(("low", "passed"), [(0.5001, True), (0.5, False), (math.nan, False)])
def test_the_champion_must_be_beaten_by_as_much_as_sft(low: float, passed: bool) -> None:
    """The interval's lower bound must lie above the same param; the sentence names the champion's version."""
    found = gates.judge_rematch(Rematch(7, 0.55, low, 0.6), EVERY)
    assert (found.name, found.passed) == ("champion", passed)
    assert found.text.startswith("win rate over champion 7 0.550 [")


def test_where_nobody_is_champion_there_is_nobody_to_beat() -> None:
    """The gate says so and passes."""
    assert gates.judge_rematch(None, EVERY) == Finding("champion", True, "no other champion to beat")


def reading(iteration: int, *warnings: str) -> dict[str, Any]:
    return {"iteration": iteration, "warnings": list(warnings)}


@pytest.mark.parametrize(
    ("kept", "readings", "passed"),
    [
        (8, [reading(0), reading(4, "long"), reading(8)], True),  # an earlier warning is past
        (4, [reading(0), reading(4), reading(8, "long")], True),  # the run went back before it
        (8, [reading(0), reading(4), reading(8, "long")], False),
        (7, [reading(0), reading(4, "long")], False),  # its KL stopped the run between two readings
        (7, [reading(8, "long"), reading(4), reading(0)], True),  # whatever the order
    ],
)
def test_the_policy_that_was_kept_must_be_one_that_the_monitor_warned_of_nothing(
    kept: int, readings: list[dict[str, Any]], passed: bool
) -> None:
    """The reading at the kept iteration counts, or the last one before it; a warning is repeated in the finding."""
    [found] = gates.judge_monitor({"kept_iteration": kept, "readings": readings}, EVERY)
    assert (found.name, found.passed) == ("monitor", passed)
    assert ("long" in found.text) is not passed


def test_without_a_monitor_the_gate_says_that_nothing_watched() -> None:
    """And passes: params say whether there is one."""
    assert gates.judge_monitor(None, EVERY) == [Finding("monitor", True, "hacking not watched")]


@pytest.mark.parametrize(
    ("champion", "drifted", "passed", "text"),
    [
        ("", None, True, "no champion from whose data"),
        ("champion 3", [], True, "no drift from champion 3's data"),
        ("champion 3", ["annotators by 0.400"], False, "the data drifted from champion 3's: annotators by 0.400"),
        ("champion 3", None, False, "drift from champion 3 is not known"),
    ],
)
def test_drifted_data_keep_a_policy_back_where_params_ask_for_it(
    champion: str, drifted: list[str] | None, passed: bool, text: str
) -> None:
    """A champion whose data nobody kept passes nothing; off, as by default, there is no finding."""
    gated = RegisterParams.model_validate({"drift": {"gate": True}})
    [found] = gates.judge_drift(champion, drifted, gated)
    assert (found.name, found.passed) == ("drift", passed)
    assert text in found.text
    assert gates.judge_drift(champion, drifted, RegisterParams()) == []


def test_what_a_person_took_back_is_promoted_by_a_person_alone() -> None:
    """With why it was taken back; nobody did, no finding."""
    assert gates.judge_rollback(None) == gates.judge_retired(None) == []
    [found] = gates.judge_rollback("2026-11-21: too curt")
    assert not found.passed
    assert "too curt" in found.text
    assert "nightjar rollback --to" in found.text


def test_forgetting_cannot_be_bounded_where_it_is_not_measured() -> None:
    """Params refuse it before anything runs, and say what to name."""
    sections = {
        "model": {"config": {"model_type": "llama"}},
        "sft": {"steps": 1, "batch_size": 1, "learning_rate": 1.0e-3},
        "reward": {"steps": 1, "batch_size": 1, "learning_rate": 1.0e-3},
        "policy": {"iterations": 3, "prompts_per_iteration": 1},
        "register": {"max_forgetting": 0.1},
    }
    with pytest.raises(ValueError, match=r"register\.max_forgetting bounds .* but ingest\.general names none"):
        Params.model_validate(sections)
    assert Params.model_validate({**sections, "ingest": {"general": "builtin"}}).register_.max_forgetting == 0.1


def test_a_year_without_a_bound_finds_nothing() -> None:
    """Then each night has its own 2.5 % alone."""
    assert gates.judge_year([1e9], 0, EVERY) == []


@pytest.mark.parametrize(
    ("evidence", "decisions", "passed", "said"),
    [
        ([730.0], 0, True, "evidence 730 reaches 730 (0.5 false promotions a year)"),  # 365 / ½
        ([729.0], 0, False, "evidence 729 below 730"),
        ([1e9, 12.0], 0, False, "evidence 12 below 730"),  # SFT is beaten, the champion is not
        ([math.inf, 731.0], 364, True, "reaches"),
        ([math.inf], 365, False, "365 decisions in a year have spent the 0.5 false promotions"),
        ([math.nan], 0, False, "below 730"),
    ],
)
def test_each_decision_has_its_share_of_a_years_false_promotions(
    evidence: list[float], decisions: int, passed: bool, said: str
) -> None:
    """One of 365; the lesser evidence counts, and what is not a number passes nothing."""
    [found] = gates.judge_year(evidence, decisions, RegisterParams(false_promotions_a_year=0.5))
    assert (found.name, found.passed) == ("year", passed)
    assert said in found.text


JUDGED = {"judge.accuracy": 0.7, "judge.accuracy_low": 0.5001, "judge.accuracy_high": 0.85}


@pytest.mark.parametrize(
    ("change", "passed"),
    [({}, True), ({"judge.accuracy_low": 0.5}, False), ({"judge.accuracy_low": math.nan}, False),
     ({"judge.accuracy": 0.0, "judge.accuracy_low": 0.0, "judge.accuracy_high": 0.1}, False)],
)  # fmt: skip
def test_a_judge_that_people_do_not_agree_with_decides_nothing(change: dict[str, float], passed: bool) -> None:
    """The lower end of its accuracy on people's test pairs must lie above one half, or what params say."""
    [found] = gates.judge_judge({**JUDGED, **change}, EVERY)
    assert (found.name, found.passed) == ("judge", passed)
    assert found.text.startswith("judge's accuracy on people's test pairs 0.")


def test_where_no_judge_decided_or_the_gate_is_off_none_is_asked() -> None:
    """And one that was not measured passes nothing."""
    assert gates.judge_judge(None, EVERY) == []
    assert gates.judge_judge(JUDGED, RegisterParams(min_judge_accuracy=None)) == []
    [found] = gates.judge_judge({}, EVERY)
    assert not found.passed
    assert "nightjar stage reward" in found.text
