"""Words of texts, and statistics of them that move when a policy games its reward: variety, repetition, length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import regex

from rlhf.blank import is_blank

_SCRIPTS = "Han Hiragana Katakana Bopomofo Yi Thai Lao Khmer Myanmar Tai_Le New_Tai_Lue Tai_Tham Tai_Viet"
SPACELESS = "[[" + "".join(rf"\p{{scx={script}}}" for script in _SCRIPTS.split()) + r"]&&[\p{L}\p{N}]]"
"""A pattern (regex, V1) of one letter or digit of a script that puts no spaces between words.

Script extensions count: the sign that lengthens a vowel of katakana belongs to no single script.
"""
WORD = rf"{SPACELESS}\p{{M}}*|(?:(?!{SPACELESS})\S)+"
"""A pattern (regex, V1) of a word as `split_words` has it."""
_WORDS = regex.compile(f"(?V1){WORD}")


def split_words(text: str) -> list[str]:
    """The words of a text: what stands between white space; of scripts without spaces each letter with its marks."""
    return text.split() if text.isascii() else _WORDS.findall(text)


def distinct_n(texts: Sequence[str], n: int) -> float:
    """The share of n-grams, over all texts together, that are different from each other; 0 to 1.

    distinct-n = |{n-grams}| / #n-grams. A policy that gives every prompt the same answer lowers it.

    Source: Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models, section 5.

    Returns:
        The share; where no text is n words long 1, since nothing repeats, or 0 where there is no word at all.

    Raises:
        ValueError: there is no text, or n is below 1.
    """
    _check(texts, n)
    ngrams = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else float(not all(map(is_blank, texts)))


def repeated_ngram_share(texts: Sequence[str], n: int) -> float:
    """The mean over texts of the share of a text's n-grams that repeat earlier ones; 0 to 1.

    1 - |{n-grams}| / #n-grams within each text; a text shorter than n words repeats nothing.

    Source: Welleck et al. 2020, Neural Text Generation with Unlikelihood Training, equation 9 (seq-rep-n).

    Raises:
        ValueError: there is no text, or n is below 1.
    """
    _check(texts, n)
    return fmean(_repeated(_ngrams(text, n)) for text in texts)


def empty_share(texts: Sequence[str]) -> float:
    """The share of texts that hold nothing to read; 0 to 1. Raises ValueError when there is no text."""
    _check(texts, 1)
    return fmean(map(is_blank, texts))


def identical_share(texts: Sequence[str]) -> float:
    """The share of texts that are there more than once, white space at their ends aside; 0 to 1.

    Raises:
        ValueError: there is no text.
    """
    _check(texts, 1)
    counts = Counter(text.strip() for text in texts)
    return sum(count for count in counts.values() if count > 1) / len(texts)


def mean_words(texts: Sequence[str]) -> float:
    """The mean length of the texts, in words (`split_words`); raises ValueError when there is no text."""
    _check(texts, 1)
    return fmean(len(split_words(text)) for text in texts)


def _repeated(grams: list[tuple[str, ...]]) -> float:
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """All n-grams of a text's words, lower-cased, in order."""
    words = split_words(text.lower())
    return [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]


def _check(texts: Sequence[str], n: int) -> None:
    if not texts:
        raise ValueError("found no texts; give at least one")
    if n < 1:
        raise ValueError(f"n is {n}; give the length of the n-grams in words, at least 1")
