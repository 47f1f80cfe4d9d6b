"""Statistics of texts, counted by hand."""

from __future__ import annotations

import pytest

from rlhf.evaluation.text import (
    distinct_n,
    empty_share,
    identical_share,
    mean_words,
    repeated_ngram_share,
    split_words,
)


def test_distinct_n_counts_over_all_texts_together() -> None:
    """`a b`, `b a`, `a b` and `a c`: 3 different of 4 bigrams; a b c of 5 words, case apart."""
    texts = ["a b A", "a b", "a c"]
    # Bigrams: (a b), (b a) | (a b) | (a c). Words: a b a a b a c.
    assert distinct_n(texts, 2) == 3 / 4
    assert distinct_n(texts, 1) == 3 / 7
    assert distinct_n(["a"], 2) == 1.0
    assert distinct_n(["", " \n"], 2) == 0.0  # nothing repeats there either, but nothing differs


def test_the_same_answer_to_every_prompt_lowers_distinct_n_but_repeats_nothing() -> None:
    """Variety between texts and repetition within one are two things."""
    assert distinct_n(["a b c"] * 4, 2) == 1 / 4
    assert repeated_ngram_share(["a b c"] * 4, 2) == 0.0


def test_repeated_ngram_share_is_a_mean_over_texts() -> None:
    """`a b a b a`: 2 different of 4 bigrams, ½; a text too short repeats nothing; their mean is ¼."""
    assert repeated_ngram_share(["a b a b a"], 2) == 0.5
    assert repeated_ngram_share(["a b a b a", "a"], 2) == 0.25
    assert repeated_ngram_share([""], 1) == 0.0


def test_mean_words_counts_what_stands_between_spaces() -> None:
    """3, 0 and 1 words."""
    assert mean_words(["one  two\nthree", "", "four-five"]) == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a  café,\tb", ["a", "café,", "b"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),  # matras and the virama stay with their letters
        ("السلام عليكم", ["السلام", "عليكم"]),
        ("안녕 세상", ["안녕", "세상"]),
        ("我爱GPT-2。", ["我", "爱", "GPT-2。"]),
        ("データ", ["デ", "ー", "タ"]),
        ("กินที่ นั่น", ["กิ", "น", "ที่", "นั่", "น"]),  # a vowel sign and a tone mark on one letter
        ("", []),
    ],
)
def test_words_are_what_spaces_separate_or_letters_where_a_script_has_none(text: str, words: list[str]) -> None:
    """Marks stay with what they mark; Latin words and numbers inside stay whole."""
    assert split_words(text) == words


def test_variety_and_repetition_are_seen_in_scripts_without_spaces() -> None:
    """Bigrams of `我爱我爱我`: 我爱, 爱我, 我爱, 爱我, 2 different of 4, as of the same letters with spaces."""
    assert repeated_ngram_share(["我爱我爱我"], 2) == repeated_ngram_share(["我 爱 我 爱 我"], 2) == 0.5
    assert distinct_n(["我爱我"] * 2, 2) == 2 / 4
    assert mean_words(["我爱我", "abc"]) == 2.0


def test_nothing_to_count_is_an_error() -> None:
    """No text, or n-grams of no word."""
    with pytest.raises(ValueError, match="no texts"):
        mean_words([])
    with pytest.raises(ValueError, match="n is 0"):
        distinct_n(["a"], 0)


def test_empty_texts_and_those_that_come_again() -> None:
    """Two of five are blank and equal to each other, two more are the same but for a space; one stands alone."""
    texts = ["", " ", "yes", "yes ", "no"]
    assert empty_share(texts) == 2 / 5
    assert identical_share(texts) == 4 / 5
    assert identical_share(["a", "b"]) == empty_share(["a"]) == 0.0
    with pytest.raises(ValueError, match="no texts"):
        identical_share([])
