"""Rankings become pairs, and every prompt falls in one split."""

from __future__ import annotations

import random
import re
from itertools import permutations, product

import pytest

from rlhf.corpus import make_demonstrations, make_prompts
from rlhf.preferences import (
    margin_of,
    pairs_of,
    rating_fault,
    split_of,
    split_rankings,
    splits_of_prompts,
    tied_couples,
)
from rlhf.records import Message, Ranking, prompt_key, prompt_text


def ranking(ranks: list[int], completions: list[str] | None = None, **fields: object) -> Ranking:
    texts = completions or [f"text {index}" for index in range(len(ranks))]
    row = {"id": "r", "prompt": "p", "completions": texts, "ranks": ranks, "annotator": "a"}
    return Ranking.model_validate({**row, **fields})


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_n_distinct_ranks_give_n_times_n_minus_1_half_pairs(count: int) -> None:
    """Every couple of a strict order is a pair, and each has the lower rank as chosen."""
    ranks = list(range(1, count + 1))
    random.Random(count).shuffle(ranks)
    found = pairs_of(ranking(ranks))
    by_text = {f"text {index}": rank for index, rank in enumerate(ranks)}
    assert len(found.pairs) == count * (count - 1) // 2
    assert all(by_text[pair.chosen] < by_text[pair.rejected] for pair in found.pairs)
    assert (found.ties, found.duplicates) == (0, 0)


def test_ties_give_no_pair_and_are_counted() -> None:
    """Ranks 2, 2, 1, 4: six couples, of which one is tied; the five pairs are named by hand."""
    found = pairs_of(ranking([2, 2, 1, 4], ["a", "b", "c", "d"]))
    assert {(pair.chosen, pair.rejected) for pair in found.pairs} == {
        ("c", "a"),
        ("c", "b"),
        ("c", "d"),
        ("a", "d"),
        ("b", "d"),
    }
    assert (found.ties, found.duplicates) == (1, 0)


def test_the_pairs_agree_with_a_loop_over_all_ordered_couples() -> None:
    """Oracle: for random ranks and texts, an independent double loop finds the same pairs and counts."""
    generator = random.Random(3)
    for _ in range(50):
        levels = [generator.randint(1, 4) for _ in range(5)]
        ranks = [1 + sum(other < level for other in levels) for level in levels]
        texts = [generator.choice("uvwxyz") for _ in range(5)]
        strict = [(i, j) for i, j in permutations(range(5), 2) if ranks[i] < ranks[j]]
        expected = sorted((texts[i], texts[j]) for i, j in strict if texts[i] != texts[j])
        found = pairs_of(ranking(ranks, texts))
        assert sorted((pair.chosen, pair.rejected) for pair in found.pairs) == expected
        assert found.duplicates == len(strict) - len(expected)
        assert found.ties == 10 - len(strict) == tied_couples(ranks)


def test_a_tie_of_identical_texts_counts_as_a_tie_not_as_a_duplicate() -> None:
    """An identical text is counted only among strictly ranked couples."""
    found = pairs_of(ranking([1, 1, 3], ["same", "same", "same"]))
    assert (found.pairs, found.ties, found.duplicates) == ([], 1, 2)


def test_ratings_travel_into_the_pairs() -> None:
    """Each side's own; where there are none, a pair has no such field."""
    whole = pairs_of(ranking([3, 1, 2], ratings=[60, 90.0, 70])).pairs
    sides = [(pair.model_extra or {}).get(side) for pair in whole for side in ("chosen_rating", "rejected_rating")]
    assert sides == [90.0, 60.0, 70.0, 60.0, 90.0, 70.0]
    for pair in pairs_of(ranking([3, 1, 2], ratings=None)).pairs:
        assert "chosen_rating" not in pair.model_dump()


def test_the_margin_is_the_difference_of_ratings_else_of_ranks() -> None:
    """Ratings 90 and 60: margin 30; without ratings, ranks 1 and 3: 2; equal ratings of other ranks: 0."""
    assert margin_of(ranking([3, 1, 2], ratings=[60, 90.0, 70]), 1, 0) == 30.0
    assert margin_of(ranking([3, 1, 2]), 1, 0) == 2.0
    assert margin_of(ranking([3, 1, 2], ratings=[60, 60.0, 60]), 1, 0) == 0.0


@pytest.mark.parametrize(
    ("ratings", "fault"),
    [
        ("60, 90, 70", "ratings is '60, 90, 70'; give a list"),
        ([60, 90], "ratings has 2 entries for 3 completions"),
        ([60, "90", 70], "ratings holds '90'; give a number"),
        ([60, None, 70], "ratings holds None; give a number"),
        ([60, True, 70], "ratings holds True; give a number"),
        ([60, float("inf"), 70], "ratings holds inf; give a number"),
        ([60, 50, 70], "completion 2 has rank 1 and rating 50, completion 1 rank 3 and rating 60; rank 1 is best"),
    ],
)
def test_ratings_that_cannot_be_used_are_named_and_make_no_pair(ratings: object, fault: str) -> None:
    """Neither dropped, which would mix their margins with those of ranks, nor believed against the ranks."""
    faulty = ranking([3, 1, 2], ratings=ratings)
    assert rating_fault(faulty).startswith(fault)
    with pytest.raises(ValueError, match=re.escape(f"ranking r: {fault}")):
        pairs_of(faulty)


def test_ratings_of_tied_completions_may_differ_and_no_margin_is_negative() -> None:
    """All orders of three ratings beside all rankings of three: either a fault, or margins of 0 and more."""
    assert rating_fault(ranking([1, 1, 3], ratings=[5, 9, 1])) == ""
    for ranks in ([1, 2, 3], [1, 1, 3], [1, 2, 2], [2, 1, 3], [3, 2, 1]):
        for ratings in product((1, 2.5, 3), repeat=3):
            row = ranking(ranks, ratings=list(ratings))
            couples = permutations(zip(ranks, ratings, strict=True), 2)
            contradicts = any(a < b and x < y for (a, x), (b, y) in couples)
            assert bool(rating_fault(row)) == contradicts
            if not contradicts:
                assert all(pair.margin is not None and pair.margin >= 0 for pair in pairs_of(row).pairs)


def test_a_pair_names_its_ranking_and_annotator() -> None:
    """Pairs of one ranking can be found again and share their completions' forward."""
    pair = pairs_of(ranking([1, 2], id="r7", annotator="ann")).pairs[0]
    assert (pair.annotator, pair.model_extra) == ("ann", {"ranking": "r7"})


def test_the_split_of_a_prompt_depends_on_prompt_and_seed_alone_and_meets_the_shares() -> None:
    """Of 4000 prompts about .2 are test and .1 dev (binomial σ ≤ .0064); another seed splits otherwise."""
    keys = [f"prompt {index}" for index in range(4000)]
    splits = [split_of(key, 0.1, 0.2, seed=1) for key in keys]
    assert splits == [split_of(key, 0.1, 0.2, seed=1) for key in keys]
    assert splits != [split_of(key, 0.1, 0.2, seed=2) for key in keys]
    assert splits.count("test") / 4000 == pytest.approx(0.2, abs=0.025)
    assert splits.count("dev") / 4000 == pytest.approx(0.1, abs=0.02)


def test_a_larger_test_share_keeps_the_test_prompts_of_a_smaller_one() -> None:
    """Raising the share moves prompts into test and none out of it."""
    keys = [f"prompt {index}" for index in range(500)]
    small = {key for key in keys if split_of(key, 0.1, 0.1, 0) == "test"}
    large = {key for key in keys if split_of(key, 0.1, 0.3, 0) == "test"}
    assert small < large


def test_shares_that_leave_nothing_to_train_on_are_refused() -> None:
    """dev .5 and test .5 would leave no train split."""
    with pytest.raises(ValueError, match="leave nothing to train on"):
        split_of("p", 0.5, 0.5, 0)


def test_rankings_of_one_prompt_fall_in_one_split_and_order_does_not_matter() -> None:
    """200 prompts with three rankings each, shuffled: one split per prompt, and the same one."""
    rows = [ranking([1, 2], id=f"{p}-{k}", prompt=f"p{p}") for p in range(200) for k in range(3)]
    first = {row.id: split for split, row in split_rankings(rows, 0.1, 0.2, 0).assigned}
    random.Random(0).shuffle(rows)
    assert {row.id: split for split, row in split_rankings(rows, 0.1, 0.2, 0).assigned} == first
    assert all(len({first[f"{p}-{k}"] for k in range(3)}) == 1 for p in range(200))
    assert set(first.values()) == {"train", "dev", "test"}


def test_forms_of_one_prompt_go_where_the_most_held_out_of_them_goes() -> None:
    """By hand from each form's own hash, whatever their order; what stands alone keeps the split of its text."""
    forms = [[f"Prompt {index}", f"prompt {index} "] for index in range(300)]
    splits = splits_of_prompts([form for both in forms for form in both], 0.1, 0.2, 0)
    assert splits == splits_of_prompts([form for both in forms for form in reversed(both)], 0.1, 0.2, 0)
    for first, second in forms:
        own = {split_of(first, 0.1, 0.2, 0), split_of(second, 0.1, 0.2, 0)}
        assert splits[second.strip()] == next(split for split in ("test", "dev", "train") if split in own)
    alone = splits_of_prompts([both[0] for both in forms], 0.1, 0.2, 0)
    assert alone == {both[1].strip(): split_of(both[0], 0.1, 0.2, 0) for both in forms}
    chat = [Message(role="user", content="hi")]
    assert splits_of_prompts([chat], 0.1, 0.2, 0) == {"hi": split_of("user: hi", 0.1, 0.2, 0)}


def test_the_generated_corpus_is_split_as_its_texts_are() -> None:
    """No two of its prompts share a key, so that no figure of the default night moves."""
    prompts = [row.prompt for row in make_prompts(1700, 0)] + [row.prompt for row in make_demonstrations(4000, 0)]
    texts = {prompt_text(prompt) for prompt in prompts}
    assert splits_of_prompts(prompts, 0.05, 0.1, 0) == {
        prompt_key(text): split_of(text, 0.05, 0.1, 0) for text in texts
    }
    assert len({prompt_key(text) for text in texts}) == len(texts)


def test_rankings_of_one_prompt_s_forms_fall_in_one_split_and_one_role() -> None:
    """Capitals and spaces: train and judge do not share them, and a declared test binds the other form."""
    rows = [ranking([1, 2], id=f"{p}-{k}", prompt=f"{k} {p} ") for p in range(200) for k in ("ask", "Ask", "ASK")]
    assigned = {row.id: split for split, row in split_rankings(rows, 0.1, 0.2, 0, 0.5).assigned}
    assert all(len({assigned[f"{p}-{k}"] for k in ("ask", "Ask", "ASK")}) == 1 for p in range(200))
    assert set(assigned.values()) == {"train", "dev", "test", "judge"}
    held = [ranking([1, 2], id="t", prompt="T", split="test"), ranking([1, 2], id="u", prompt="t", split="train")]
    assert split_rankings(held, 0.0, 0.0, 0).leaks == 1


def test_a_held_out_prompt_leaves_the_other_splits_and_is_counted() -> None:
    """test binds train, dev and judge; dev binds train and judge; judge and train may share a prompt."""
    declared = [("t", "test"), ("t", "train"), ("t", "dev"), ("t", "judge"), ("t", "any")]
    declared += [("d", "dev"), ("d", "train"), ("d", "judge"), ("s", "train"), ("s", "judge")]
    rows = [ranking([1, 2], id=f"{n}", prompt=p, split=s) for n, (p, s) in enumerate(declared)]
    found = split_rankings(rows, 0.0, 0.0, 0)
    assert [(split, row.prompt) for split, row in found.assigned] == [
        ("test", "t"),
        ("test", "t"),
        ("dev", "d"),
        ("train", "s"),
        ("judge", "s"),
    ]
    assert found.leaks == 5


def test_a_judge_ranking_is_dropped_only_where_other_rankings_hold_its_prompt_out() -> None:
    """Everything hashes to test here: the judge alone keeps its prompt, beside an `any` it loses it."""
    alone = ranking([1, 2], id="1", prompt="alone", split="judge")
    beside = ranking([1, 2], id="2", prompt="both", split="judge")
    other = ranking([1, 2], id="3", prompt="both", split="any")
    found = split_rankings([alone, beside, other], 0.0, 0.999999, 0)
    assert [(split, row.id) for split, row in found.assigned] == [("judge", "1"), ("test", "3")]
    assert found.leaks == 1


def test_an_unknown_split_names_the_ranking_and_the_choices() -> None:
    """A split called `training` is an error, not a silent `any`."""
    with pytest.raises(ValueError, match=r"ranking r: split is 'training'; expected one of train, dev"):
        split_rankings([ranking([1, 2], split="training")], 0.1, 0.1, 0)
