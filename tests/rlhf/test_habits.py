"""Habits of annotators: each kind is named, and honest work is not."""

from __future__ import annotations

import random

import pytest

from rlhf.habits import habits
from rlhf.records import Ranking


def ranking(number: int, ranks: list[int], who: str = "ana", texts: list[str] | None = None) -> Ranking:
    completions = texts or [f"{number}-{place}" for place in range(len(ranks))]
    return Ranking(id=str(number), prompt=f"ask {number}", completions=completions, ranks=ranks, annotator=who)


def test_honest_work_is_not_warned_of() -> None:
    """Orders by lot, ties among them, and the same completions ranked thrice, each time alike."""
    draw = random.Random(0)
    rows = [ranking(number, draw.sample([1, 2, 3], 3)) for number in range(40)]
    rows += [ranking(number, draw.choice([[1, 2], [2, 1], [1, 1]]), "bo") for number in range(40)]
    rows += [ranking(99, [2, 1], "bo") for _ in range(3)]
    assert habits(rows) == []
    assert habits([]) == []


@pytest.mark.parametrize(("count", "ranks"), [(14, [1, 2]), (6, [1, 2, 3]), (3, [1, 2, 3, 4])])
def test_the_order_of_the_list_is_told_from_chance(count: int, ranks: list[int]) -> None:
    """By lot: ½ to the 14th is 6e-5, 1/6 to the 6th 2e-5, 1/24 to the 3rd 7e-5; of one fewer it could be chance."""
    rows = [ranking(number, ranks) for number in range(count)]
    [said] = habits(rows)
    assert said.startswith(f"ana: {count} of {count} rankings are in the order in which the completions are listed")
    assert habits(rows[1:]) == []


def test_of_many_who_rank_little_the_order_is_counted_together() -> None:
    """Ninety rankings by ninety people."""
    [said] = habits([ranking(number, [1, 2], f"a{number}") for number in range(90)])
    assert said.startswith("all annotators together: 90 of 90 rankings are in the order")


@pytest.mark.parametrize("ranks", [[2, 1], [1, 1]])
def test_one_answer_to_all_is_named(ranks: list[int]) -> None:
    """Always the second, or always a tie; one in twenty may differ."""
    rows = [ranking(number, ranks) for number in range(19)] + [ranking(19, [1, 2])]
    assert habits(rows) == [f"ana: 19 of 20 rankings are all alike, {ranks}, whatever the completions"]


def test_who_contradicts_himself_is_named_and_others_are_not_held_against_him() -> None:
    """a before b and b before a of the same prompt; the texts may stand in any order, and ties contradict nothing."""
    rows = [
        ranking(1, [1, 2], texts=["a", "b"]),
        ranking(1, [1, 2], texts=["b", "a"]),
        ranking(2, [1, 2], texts=["a", "b"]),
        ranking(2, [2, 1], texts=["b", "a"]),
        ranking(3, [1, 2], texts=["a", "b"]),
        ranking(3, [1, 1], texts=["a", "b"]),
        ranking(2, [2, 1], "bo", texts=["a", "b"]),
    ]
    assert habits(rows) == ["ana: prefers both ways in 1 of 3 couples of texts that were ranked more than once"]


def test_one_ranking_many_times_is_named() -> None:
    """Fifty times the same, in whatever order the completions stand."""
    rows = [ranking(7, [1, 2], texts=["a", "b"]), ranking(7, [2, 1], texts=["b", "a"])] * 25
    assert habits(rows) == ["ana: ranked the same completions 50 times, so they count as often ('ask 7')"]
