"""Tonight's rows beside those before: which are compared, what is a warning, and how rarely there is a false one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rlhf.drift import RESAMPLES
from tasks.drift import compare
from tasks.drift.compare import MEASURES, Baseline, Measured
from tasks.drift.profile import Profile, Traits, bucket_of
from tasks.figures import find
from tasks.params.register import DriftParams
from tests.tasks.drift.alarms import quiet_night

PARAMS = DriftParams()


def prompts(names: range, **traits: Any) -> Profile:
    """A prompt for each number."""
    given = {"length": 5.0, "language": "Latin", "words": [1], **traits}
    return [Traits.model_validate({"kind": "prompts", "prompt": f"{n:04}", "row": f"{n:04}", **given}) for n in names]


def rankings(names: range, annotator: str, prompt: str | None = None, **traits: Any) -> Profile:
    """A ranking for each number, of a prompt of its own if none is given."""
    rows = [{"kind": "rankings", "prompt": prompt or f"{n:04}", "row": f"{n:04}{annotator}", **traits} for n in names]
    return [Traits.model_validate({**row, "annotator": annotator}) for row in rows]


def fixed(scores: list[float]) -> Profile:
    """A text for each score."""
    texts = enumerate(scores)
    return [Traits(kind="fixed_texts", prompt=f"{n:04}", row=f"{n:04}", score=score) for n, score in texts]


def champion(*profiles: Profile) -> Baseline:
    return Baseline("champion", "champion 3", profiles)


def of(measured: list[Measured], figure: str) -> Measured:
    [row] = [each for each in measured if each.figure == figure]
    return row


def test_what_is_new_is_compared_with_all_that_was_there() -> None:
    """100 rows stay, 40 come: all of another length, though of tonight's rows they are a minority."""
    before = prompts(range(100))
    tonight = before + prompts(range(100, 140), length=9.0)
    measured = compare.compare(tonight, [champion(before)], PARAMS)
    length = of(measured, "prompts.length")
    assert (length.before, length.after, length.distance, length.drifted) == (100, 40, 1.0, True)
    assert length.note == "mean 5, median 5; now mean 9, median 9"
    language = of(measured, "prompts.language")
    assert (language.distance, language.drifted) == (0.0, False)
    assert compare.describe(measured, [champion(before)]) == "drift from champion 3: length of prompts by 1.000"


def test_where_rows_only_went_those_that_are_gone_are_compared_with_those_that_stayed() -> None:
    """30 of 100 prompts are dropped, all those in Arabic, and nothing comes; at random it would be no drift."""
    stayed, arabic = prompts(range(70)), prompts(range(70, 100), language="Arabic")
    measured = compare.compare(stayed, [champion(stayed + arabic)], PARAMS)
    language = of(measured, "prompts.language")
    assert (language.before, language.after, language.change, language.distance) == (70, 30, "gone", 1.0)
    assert language.note == "Latin 100%; in what is gone Arabic 100%"
    told = "drift from champion 3: languages of prompts by 1.000 (rows gone)"
    assert compare.describe(measured, [champion(stayed + arabic)]) == told
    mixed = [row for two in zip(stayed[:30], arabic, strict=True) for row in two]
    assert not any(each.drifted for each in compare.compare(mixed[:30], [champion(mixed)], PARAMS))


def test_what_is_gone_whole_is_not_measured() -> None:
    """No prompt of tonight's was kept: the note says so."""
    words = of(compare.compare([], [champion(prompts(range(9)))], PARAMS), "prompts.words")
    assert (words.change, words.p, words.note) == ("gone", None, "nothing measured in what stayed")


def test_where_no_row_came_or_went_nothing_is_tested() -> None:
    """The line says so."""
    before = prompts(range(50))
    measured = compare.compare(before, [champion(before)], PARAMS)
    assert {each.p for each in measured} == {None}
    assert of(measured, "prompts.words").note == "the rows are the same"
    assert of(measured, "rankings.ties").note == "no rows"
    assert compare.describe(measured, [champion(before)]) == "drift from champion 3: nothing new"


def test_every_kind_of_row_is_compared_by_all_its_traits() -> None:
    """The table of docs/drift.md, figure by figure."""
    measured = compare.compare(prompts(range(3)), [champion([])], PARAMS)
    assert [each.figure for each in measured] == [
        *("prompts.words", "prompts.length", "prompts.language", "demonstrations.length", "demonstrations.language"),
        *("rankings.length", "rankings.language", "rankings.annotator", "rankings.ties", "rankings.agreement"),
        *("fixed_texts.order", "fixed_texts.level"),
    ]


def test_shares_of_annotators_are_compared_by_their_means() -> None:
    """Not by their distributions: of three in four ties fall by ½, or agreement by ½. Two kinds are both told."""
    before = rankings(range(20), "ana", ties=0.5, agreement=1.0, language="Latin")
    after = [
        *rankings(range(20, 35), "ana", ties=0.0, agreement=0.5, language="Arabic"),
        *rankings(range(35, 40), "ana", ties=1.0, agreement=1.0, language="Latin"),
    ]
    measured = compare.compare([*before, *after], [champion(before)], PARAMS)
    assert (of(measured, "rankings.ties").distance, of(measured, "rankings.agreement").distance) == (0.25, 0.375)
    assert of(measured, "rankings.language").note == "Latin 100%; now Arabic 75%, Latin 25%"


def test_of_a_prompts_rows_the_one_with_the_smallest_digest_counts() -> None:
    """Three answers to each prompt, the smallest digests' first: 4 words long, the others 9."""
    rows = [
        Traits(kind="demonstrations", prompt=f"{n}", row=f"{place}{n}", length=length)
        for n in range(5)
        for place, length in enumerate((4.0, 9.0, 9.0))
    ]
    length = of(compare.compare(rows, [champion(rows[3:6])], PARAMS), "demonstrations.length")
    assert (length.before, length.after, length.note) == (1, 4, "mean 4, median 4; now mean 4, median 4")


def test_what_lies_at_both_bounds_is_drift() -> None:
    """As large as `min_distance`, as rare as `alpha`."""
    before = prompts(range(12))
    tonight = [*before, *prompts(range(12, 15), length=9.0)]
    found = of(compare.compare(tonight, [champion(before)], DriftParams(alpha=0.3)), "prompts.length")
    assert found.adjusted is not None
    at = DriftParams(alpha=found.adjusted, min_distance=1.0)
    assert of(compare.compare(tonight, [champion(before)], at), "prompts.length").drifted
    assert found.p == pytest.approx(2 / 455)  # the two ends of C(15, 3) divisions; below alpha by itself alone
    alone = DriftParams(alpha=0.01)
    assert not of(compare.compare(tonight, [champion(before)], alone), "prompts.length").drifted


def test_both_baselines_are_one_family_and_told_apart() -> None:
    """The same p of two more figures is twice as large; what is usual beside one baseline drifted from the other."""
    before, longer = prompts(range(40)), prompts(range(40, 80), length=9.0)
    tonight = [*before, *prompts(range(80, 120), length=9.0)]
    old, new = champion(before), Baseline("nights", "the last night", [[*before, *longer]])
    [alone] = [row for row in compare.compare(tonight, [old], PARAMS) if row.figure == "prompts.length"]
    both = compare.compare(tonight, [old, replace(old, key="nights")], PARAMS)
    assert alone.adjusted == pytest.approx(3 * alone.p, abs=0.0)
    assert [row.adjusted for row in both if row.figure == "prompts.length"] == pytest.approx([6 * alone.p] * 2, abs=0.0)
    measured = compare.compare(tonight, [old, new], DriftParams(min_distance=0.6))
    assert compare.describe(measured, [old, new]) == (
        "drift from champion 3: length of prompts by 1.000; from the last night: none in 3 figures"
    )


def test_a_prompt_counts_once() -> None:
    """A hundred rankings of one prompt by one newcomer are one row; of a hundred prompts they are a hundred."""
    before = rankings(range(100), "ana")
    one = compare.compare(rankings(range(200, 300), "bo", prompt="x"), [champion(before)], PARAMS)
    assert (of(one, "rankings.annotator").after, of(one, "rankings.annotator").drifted) == (1, False)
    every = of(compare.compare(rankings(range(200, 300), "bo"), [champion(before)], PARAMS), "rankings.annotator")
    assert (every.after, every.drifted, every.note) == (100, True, "ana 100%; now bo 100%")


def test_several_nights_are_one_baseline() -> None:
    """A row that any of them had is not new."""
    nights = Baseline("nights", "the last 2 nights", [prompts(range(30)), prompts(range(20, 60))])
    length = of(compare.compare(prompts(range(10, 70)), [nights], PARAMS), "prompts.length")
    assert (length.before, length.after) == (60, 10)


def test_of_a_full_profile_only_known_rows_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The baseline kept its 30 rows of smallest digests, so whether it had a row above them is not known."""
    monkeypatch.setattr(compare, "MAX_ROWS", 30)
    length = of(compare.compare(prompts(range(60)), [champion(prompts(range(30)))], PARAMS), "prompts.length")
    assert (length.before, length.after) == (30, 0)
    gaps = champion(prompts(range(0, 60, 2)))  # up to 58
    length = of(compare.compare(prompts(range(0, 80, 3)), [gaps], PARAMS), "prompts.length")
    assert (length.before, length.after) == (30, 10)  # 3, 9, ..., 57


def test_what_a_side_lacks_is_not_measured() -> None:
    """Agreement needs two annotators of one item; the note says on which side there are none."""
    before, tonight = rankings(range(20), "ana", agreement=0.9), rankings(range(20, 40), "ana")
    agreement = of(compare.compare(tonight, [champion(before)], PARAMS), "rankings.agreement")
    assert (agreement.before, agreement.after, agreement.p, agreement.note) == (20, 0, None, "nothing measured now")


@pytest.mark.parametrize(
    ("scores", "drifts"),
    [
        ([0.1 * n for n in range(40)], []),
        ([0.1 * n + 1.5 for n in range(40)], ["fixed_texts.level"]),
        ([-0.1 * n + 3.9 for n in range(40)], ["fixed_texts.order"]),
    ],
)
def test_the_reward_model_is_held_to_its_opinion_of_fixed_texts(scores: list[float], drifts: list[str]) -> None:
    """The same; all 1.3 deviations higher; turned round about the same mean. Texts that only one had do not count."""
    before = fixed([*(0.1 * n for n in range(40)), 9.0])
    measured = compare.compare(fixed(scores), [champion(before)], PARAMS)
    assert [each.figure for each in measured if each.drifted] == drifts
    assert (of(measured, "fixed_texts.order").before, of(measured, "fixed_texts.order").after) == (41, 40)


def test_each_bound_of_the_reward_model_is_its_own() -> None:
    """1.3 deviations higher are within 2; a turned order is within nothing."""
    before, wide = fixed([0.1 * n for n in range(40)]), DriftParams(min_reward_order=0.0, max_reward_shift=2.0)
    higher = compare.compare(fixed([0.1 * n + 1.5 for n in range(40)]), [champion(before)], wide)
    assert not any(each.drifted for each in higher)
    turned = compare.compare(fixed([3.9 - 0.1 * n for n in range(40)]), [champion(before)], wide)
    assert [each.figure for each in turned if each.drifted] == ["fixed_texts.order"]


def test_of_several_nights_the_mean_opinion_counts() -> None:
    """One night's scores lay at 0, the other's at 2: tonight's at 1 are no shift."""
    shape = [0.1 * n for n in range(20)]
    nights = Baseline("nights", "", [fixed(shape), fixed([score + 2 for score in shape])])
    level = of(compare.compare(fixed([score + 1 for score in shape]), [nights], PARAMS), "fixed_texts.level")
    assert level.distance == pytest.approx(0.0, abs=1e-9)


def test_few_texts_in_common_are_not_judged() -> None:
    """Below ten."""
    measured = compare.compare(fixed([1.0] * 9), [champion(fixed([2.0] * 30))], PARAMS)
    assert of(measured, "fixed_texts.level").note == "9 texts in common, fewer than 10"
    enough = compare.compare(
        fixed([1.0 * n for n in range(10)]), [champion(fixed([2.0 * n for n in range(30)]))], PARAMS
    )
    assert of(enough, "fixed_texts.level").p is not None


def test_words_that_became_frequent_are_named() -> None:
    """By tonight's prompts, for a profile has numbers alone."""
    texts = [f"was kostet {name}" for name in "abcdefghijklmnopqrst"]
    before = prompts(range(60), words=[bucket_of("wo"), bucket_of("ist")])
    after = prompts(range(60, 80), words=[bucket_of(word) for word in ("was", "kostet", "ist")])
    words = of(compare.compare(after, [champion(before)], PARAMS, texts), "prompts.words")
    assert words.drifted
    assert words.note in ("more often now: was, kostet", "more often now: kostet, was")


def test_words_are_named_by_how_much_more_frequent_they_became() -> None:
    """The most first, eight at most; a word that fell is none of them, nor is one that tonight's prompts lack."""
    rising = [f"w{'abcdefghij'[n]}" for n in range(10)]
    text = " ".join([*(word for n, word in enumerate(rising) for _ in range(12 - n)), "ist"])
    words = [bucket_of(word) for word in text.split()]
    before = prompts(range(30), words=[bucket_of("ist")])
    found = of(
        compare.compare(prompts(range(30, 60), words=words), [champion(before)], PARAMS, [text]), "prompts.words"
    )
    assert found.note == f"more often now: {', '.join(rising[:8])}"
    gone = compare.compare(before, [champion([*before, *prompts(range(30, 60), words=words)])], PARAMS, ["ist"])
    assert of(gone, "prompts.words").note == "no word more often"


def test_of_words_with_one_number_the_more_frequent_is_named() -> None:
    """Some of 4096 numbers is soon taken twice."""
    first: dict[int, str] = {}
    words = (f"w{n}" for n in range(4097))
    one, two = next((first[bucket_of(word)], word) for word in words if first.setdefault(bucket_of(word), word) != word)
    before, after = prompts(range(30)), prompts(range(30, 60), words=[bucket_of(one)])
    for rare, often in ((one, two), (two, one)):
        measured = compare.compare(after, [champion(before)], PARAMS, [f"{rare} {often} {often}"])
        assert of(measured, "prompts.words").note == f"more often now: {often}"


def test_of_very_many_prompts_the_words_of_those_with_the_smallest_digests_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of ten on each side five, which say the same; the others are left out."""
    monkeypatch.setattr(compare, "MAX_PROMPTS", 5)
    before = [*prompts(range(5)), *prompts(range(50, 55), words=[2])]
    tonight = [*before, *prompts(range(10, 15)), *prompts(range(60, 65), words=[3])]
    assert of(compare.compare(tonight, [champion(before)], PARAMS), "prompts.words").distance == 0.0


def test_what_is_certain_but_small_is_no_drift() -> None:
    """2 % of 3000 new prompts in another script: p is nothing, and the distance below the bound."""
    before = prompts(range(3000))
    tonight = prompts(range(3000, 5940)) + prompts(range(5940, 6000), language="Arabic")
    language = of(compare.compare(tonight, [champion(before)], PARAMS), "prompts.language")
    assert language.adjusted is not None
    assert language.adjusted <= PARAMS.alpha
    assert not language.drifted
    close = DriftParams(min_distance=0.01)
    assert of(compare.compare(tonight, [champion(before)], close), "prompts.language").drifted


def test_a_first_night_says_so() -> None:
    """And a champion of a time before profiles were kept is named as such."""
    assert compare.compare(prompts(range(3)), [], PARAMS) == []
    assert compare.describe([], []) == "drift: nothing to compare with, for no earlier night's data are known"
    unknown = Baseline("champion", "champion 3", None)
    assert compare.compare(prompts(range(3)), [unknown], PARAMS) == []
    assert compare.describe([], [unknown]) == "drift from champion 3 not known: its data's profile was not kept"


def test_every_figure_has_its_title() -> None:
    """In the one table, under its own key."""
    keys = (*MEASURES, compare.ORDER, compare.LEVEL)
    assert [find(f"drift.champion.{key}").key for key in keys] == list(keys)


def test_the_least_alpha_can_be_reached() -> None:
    """By the smallest p of a permutation, adjusted for every figure beside two baselines."""
    least = RESAMPLES + 1
    figures = 2 * (len(MEASURES) + 2)
    assert figures / least <= DriftParams(alpha=0.005).alpha
    with pytest.raises(ValidationError, match=r"alpha"):
        DriftParams(alpha=0.004)


def test_a_night_without_drift_is_warned_of_as_rarely_as_params_say() -> None:
    """Over 20 figures together, a tenth of the nights at most (within two deviations of counting 24); one by one
    they would have warned in more than a third of them.
    """
    params, generator = DriftParams(alpha=0.1, min_distance=0.0), np.random.default_rng(5)
    nights = [compare.compare(*quiet_night(generator, 60, 30), params) for _ in range(24)]
    assert min(sum(each.p is not None for each in measured) for measured in nights) >= 18
    warned = np.mean([any(each.drifted for each in measured) for measured in nights])
    alone = np.mean([any(each.p is not None and each.p <= 0.1 for each in measured) for measured in nights])
    assert warned <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / 24)
    assert alone > 1 / 3


def test_a_fifth_of_new_rows_in_another_language_is_seen() -> None:
    """In most nights of 100 new rows; the line of docs/drift.md."""
    generator = np.random.default_rng(6)
    seen = [
        any(each.drifted for each in compare.compare(*quiet_night(generator, 300, 100, foreign=0.2), PARAMS))
        for _ in range(6)
    ]
    assert sum(seen) >= 5
