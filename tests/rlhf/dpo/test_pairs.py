"""Pairs as a policy reads them."""

from __future__ import annotations

import pytest

from rlhf.dpo.pairs import encode_pairs
from rlhf.models import Policy
from tests.rlhf.dpo.conftest import LIKED, pairs_of


def test_a_completion_is_read_once_for_all_pairs_of_its_prompt(speller: Policy) -> None:
    """Three completions of `a` make three pairs; the same text of another prompt is another completion."""
    table = encode_pairs(speller, pairs_of([*LIKED[:4], ("b c", "c", "a")]), 5)
    assert table.prompts == ["a", "b c"]
    assert table.pairs == [[(0, 1), (0, 2), (1, 2)], [(3, 4), (5, 3)]]
    # a … e are 3 … 7; a prompt ends in <sep> 2, a response in <eos> 1
    assert table.examples == [
        ([3, 2], [3, 4, 1]),
        ([3, 2], [5, 1]),
        ([3, 2], [6, 6, 6, 1]),
        ([4, 5, 2], [3, 1]),
        ([4, 5, 2], [7, 7, 1]),
        ([4, 5, 2], [5, 1]),
    ]


def test_what_does_not_fit_is_cut(speller: Policy) -> None:
    """At three tokens `d d d` is left without its end, as the sampler would leave it."""
    assert encode_pairs(speller, pairs_of(LIKED[1:2]), 3).examples[1] == ([3, 2], [6, 6, 6])


def test_no_pairs_are_an_error(speller: Policy) -> None:
    """None at all, or none whose texts differ once cut; it says where to look."""
    with pytest.raises(ValueError, match=r"found no pair to learn from among 0; .* are all rankings ties"):
        encode_pairs(speller, [], 5)
    same = pairs_of([("a", "b b b a", "b b b c")])
    assert encode_pairs(speller, same, 5).pairs == [[(0, 1)]]
    with pytest.raises(ValueError, match=r"among 1; do chosen and rejected differ within policy.max_new_tokens 3"):
        encode_pairs(speller, same, 3)
