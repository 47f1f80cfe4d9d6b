"""Signs of reward hacking by hand: the paired fall, each limit from both sides, patience, and which reading is best."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from rlhf.evaluation.hacking import Reading, findings, gain, score_fall, verdict
from rlhf.settings.policy import MonitorSettings

BEFORE, AFTER = torch.tensor([1.0, 0.8, 0.6, 0.4]), torch.tensor([0.4, 0.6, 0.0, 0.2])
START: dict[str, Any] = {"kl": 0.0, "length": 10.0, "repeated_3": 0.05, "distinct_2": 0.4, "spread": 0.2}
START |= {"empty": 0.01, "identical": 0.1}
STRICT = MonitorSettings(max_kl=10.0)
OFF = MonitorSettings.model_validate(
    dict.fromkeys(name for name in MonitorSettings.model_fields if name.startswith(("max_", "min_")))
    | {"max_held_out_drop": 100.0}
)


def reading(
    iteration: int, held_out: float | torch.Tensor | None = None, proxy: float = 0.0, **fields: float
) -> Reading:
    """A reading that is as the start in all that is not said; a number is the score of each of four completions."""
    scores = held_out if held_out is None or isinstance(held_out, torch.Tensor) else torch.full((4,), float(held_out))
    return Reading(iteration, torch.full((4,), proxy), scores, **(START | fields))


def test_a_fall_by_hand() -> None:
    """d = (.6, .2, .6, .2): mean .4; Σ(d - .4)² = .16, √(.16 / 3) / √4 = .115470; both over a unit of .5."""
    fall = score_fall(BEFORE, AFTER, unit=0.5)
    assert fall.size == pytest.approx(0.8, abs=1e-5)
    assert fall.error == pytest.approx(0.230940, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40), st.floats(0.1, 5.0), st.floats(-3.0, 3.0))
def test_a_fall_is_the_paired_t_test(seed: int, count: int, unit: float, shift: float) -> None:
    """Size over error is its statistic, whatever the unit; a shift of both sides changes nothing."""
    before, after = torch.randn(2, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    fall = score_fall(before, after, unit)
    assert fall.size / fall.error == pytest.approx(ttest_rel(before, after).statistic, rel=1e-6)
    assert fall.size * unit == pytest.approx(float((before - after).mean()), abs=1e-9)
    assert score_fall(before + shift, after + shift, unit) == pytest.approx(fall, abs=1e-9)


def test_a_gain_is_in_the_deviations_of_the_start() -> None:
    """From a mean of .7 to .3 with the start's deviation √((.3² + .1² + .1² + .3²) / 4) = .223607: -1.788854."""
    assert gain(AFTER, BEFORE) == pytest.approx(-1.788854, abs=1e-5)
    assert gain(AFTER, torch.zeros(4)) == pytest.approx(0.3)  # scores that do not differ have no deviation


@pytest.mark.parametrize(("limit", "found"), [(0.33, True), (0.34, False)])
def test_a_held_out_fall_counts_beyond_two_standard_errors(limit: float, found: bool) -> None:
    """.8 - 2 · .230940 = .338120 deviations, of which the start had .5."""
    start = reading(0, torch.tensor([1.5, 0.5, 1.5, 0.5]))
    best, now = reading(4, BEFORE, proxy=0.2), reading(8, AFTER, proxy=1.5)
    texts = findings(start, best, now, MonitorSettings(max_held_out_drop=limit))
    assert bool(texts) == found
    if found:
        assert "the held-out score is 0.300, 0.700 after iteration 4" in texts[0]
        assert "a fall by 0.80 ± 0.23 of the start's deviations (limit 0.33 beyond 2 standard errors)" in texts[0]
        assert "while the reward model's rose from 0.20 to 1.50, so the policy learns to fool it" in texts[0]


def test_a_fall_of_both_scores_is_harm_but_not_hacking() -> None:
    """It is found all the same, in other words."""
    texts = findings(reading(0, 1.0), reading(4, 1.0, proxy=0.5), reading(8, 0.0, proxy=0.1), STRICT)
    assert len(texts) == 1
    assert "and the reward model's too, from 0.50 to 0.10, so the training does harm" in texts[0]


@pytest.mark.parametrize(
    ("field", "within", "past", "words"),
    [
        ("kl", 10.0, 10.01, "KL to the reference is 10.01 nats per sequence (limit 10)"),
        ("length", 20.0, 20.1, "20.1 tokens long, 10.0 at the start (limit 2 times that)"),
        ("length", 5.0, 4.9, "4.9 tokens long, 10.0 at the start (limit 0.5 times that)"),
        ("empty", 0.059, 0.061, "6% of completions are empty, 1% at the start (limit 5 points more)"),
        (
            "identical",
            0.399,
            0.401,
            "40% of completions are another prompt's too, .* 10% at the start (limit 30 points more)",
        ),
        ("repeated_3", 0.249, 0.251, "25% of trigrams repeat .* 5% at the start (limit 20 points more)"),
        ("distinct_2", 0.2, 0.199, "20% of all bigrams are distinct, 40% at the start (limit 0.5 times that)"),
        ("spread", 0.6, 0.61, "members differ by 0.61, 0.20 at the start (limit 3 times that)"),
    ],
)
def test_each_limit_from_both_sides(field: str, within: float, past: float, words: str) -> None:
    """One finding past it that says what was found and what the limit is; none within, none when it is off."""
    start = reading(0, 1.0)
    assert findings(start, start, reading(4, 1.0, **{field: within}), STRICT) == []
    texts = findings(start, start, reading(4, 1.0, **{field: past}), STRICT)
    assert len(texts) == 1
    assert all(part in texts[0] for part in words.split(" .* "))
    assert findings(start, start, reading(4, 1.0, **{field: past}), OFF) == []


def test_a_single_member_has_no_spread_to_grow() -> None:
    """Its spread is 0 from the start on."""
    start = reading(0, 1.0, spread=0.0)
    assert findings(start, start, reading(4, 1.0, spread=0.0), STRICT) == []
    assert findings(start, start, reading(4, 1.0, spread=0.5), STRICT) == []


def test_findings_add_up() -> None:
    """Each signal speaks for itself."""
    start = reading(0, 1.0)
    assert len(findings(start, start, reading(4, 0.0, kl=11.0, length=30.0), STRICT)) == 3


def test_readings_in_a_row_are_counted_and_a_recovered_one_starts_anew() -> None:
    """Past, past, within, past: 1, 2, 0, 1."""
    readings = [reading(0, 1.0)] + [reading(place, 1.0, kl=kl) for place, kl in enumerate((11.0, 12.0, 3.0, 13.0), 1)]
    counts = [verdict(readings[:upto], STRICT).in_a_row for upto in range(1, 6)]
    assert counts == [0, 1, 2, 0, 1]
    assert [len(texts) for texts in verdict(readings, STRICT).findings] == [0, 1, 1, 0, 1]


def test_the_best_reading_has_the_highest_held_out_score_within_the_limits() -> None:
    """A higher score past the KL limit is not taken; of equals the earlier one is."""
    readings = [reading(0, 0.5), reading(1, 0.7), reading(2, 0.9, kl=11.0), reading(3, 0.7), reading(4, 0.6)]
    best = [verdict(readings[:upto], STRICT).best.iteration for upto in range(1, 6)]
    assert best == [0, 1, 1, 1, 1]


def test_a_fall_is_measured_from_the_best_reading_not_from_the_start() -> None:
    """From .9 back to .5, where it began, is a fall; the reading that is past the limit is not the new best."""
    readings = [reading(0, 0.5), reading(1, 0.9, proxy=1.0), reading(2, 0.5, proxy=2.0), reading(3, 0.6, proxy=3.0)]
    found = verdict(readings, MonitorSettings(max_held_out_drop=0.25))
    assert found.best.iteration == 1
    assert [len(texts) for texts in found.findings] == [0, 0, 1, 1]
    assert found.in_a_row == 2


def test_without_a_held_out_score_the_best_is_the_last_within_the_limits() -> None:
    """A proxy that only rises tells nothing."""
    readings = [reading(0), reading(1, proxy=1.0), reading(2, proxy=2.0), reading(3, proxy=3.0, kl=11.0)]
    assert [verdict(readings[:upto], STRICT).best.iteration for upto in range(1, 5)] == [0, 1, 2, 2]
    assert verdict(readings, STRICT).in_a_row == 1


def test_chance_is_seldom_taken_for_a_fall_and_a_fall_seldom_for_chance() -> None:
    """128 prompts with fresh noise: at most 1 in 50 flat readings is found, and at least 29 in 30 that fell by .6."""
    draw = torch.Generator().manual_seed(0)
    start = reading(0, torch.randn(128, generator=draw))
    counts = {0.0: 0, 0.6: 0}
    for fall in counts:
        for _ in range(300):
            before, after = torch.randn(2, 128, generator=draw)
            counts[fall] += bool(findings(start, reading(4, before), reading(8, after - fall), MonitorSettings()))
    assert counts[0.0] <= 6
    assert counts[0.6] >= 290


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("proxy", torch.tensor([1.0, float("nan"), 0.0, float("inf")]), "the reward model's score is not finite for 2"),
        ("held_out", torch.tensor([1.0, 2.0, 3.0, float("nan")]), "the held-out score is not finite for 1"),
        ("kl", float("nan"), "the KL is not finite for 1"),
    ],
)
def test_a_reading_that_measured_nothing_is_past_every_limit(field: str, value: Any, words: str) -> None:
    """No comparison with what is no number is true, so it would pass; it is never the best, with limits off or on."""
    readings = [reading(0, 1.0), reading(1, 2.0)._replace(**{field: value})]
    for limits in (STRICT, OFF):
        found = verdict(readings, limits)
        assert found.findings[1] == [
            f"{words} of 4 completions: look for a damaged model in data/models, or lower policy.learning_rate"
        ]
        assert found.best is readings[0]
