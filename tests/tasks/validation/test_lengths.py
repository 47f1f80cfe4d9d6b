"""Texts are counted in tokens where a tokenizer is at hand, else in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.records import Message
from rlhf.tokenizers import train_tokenizer
from tasks.validation.lengths import lengths_of, trained_lengths


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BPE tokenizer beside a configuration, saved as a model's folder holds them."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["the cat sat on the mat. " * 5] * 5, 300).save_pretrained(folder)
    LlamaConfig().save_pretrained(folder)
    return folder


def test_a_model_s_own_tokens_are_counted_with_separator_and_end(tokenizer_folder: Path) -> None:
    """One more than the bare encoding on either side: the separator of a prompt, the EOS of a text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    bare = len(tokenizer.encode("the cat sat", add_special_tokens=False))
    lengths = lengths_of(str(tokenizer_folder))
    assert lengths.of_prompt("the cat sat") == bare + 1
    assert lengths.of_texts(["the cat sat", "", "the cat sat<eos>"]) == [bare + 1, 1, bare + 1]


def test_a_model_from_scratch_counts_as_the_tokenizer_that_it_will_have() -> None:
    """Trained on the same texts: a word that occurs is a token or a few, one that does not a token for each byte."""
    texts = ["the cat sat", "on the mat", "the cat sat on the mat"] * 5
    tokenizer = train_tokenizer(texts, 300)
    lengths = trained_lengths(iter(texts), 300)
    assert lengths.of_texts(["the cat sat"]) == [len(tokenizer.encode("the cat sat", add_special_tokens=False)) + 1]
    assert lengths.of_texts(["the cat sat"])[0] < 9
    chinese = "问" * 560
    assert lengths.of_texts([chinese]) == [3 * 560 + 1 + 1]  # the space before the first word, and EOS
    assert lengths.of_prompt(chinese) == lengths.of_prompt([Message(role="user", content=chinese)]) == 3 * 560 + 1 + 1
    assert trained_lengths([], 300).of_texts(["ab"]) == [4]
