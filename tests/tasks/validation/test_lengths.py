"""Texts are counted in tokens where a tokenizer is at hand, else in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.records import Message
from rlhf.tokenizers import train_tokenizer
from tasks.validation.lengths import count_words, lengths_of


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BPE tokenizer beside a configuration, saved as a model's folder holds them."""
    from transformers import LlamaConfig

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["the cat sat on the mat. " * 5] * 5, 300).save_pretrained(folder)
    LlamaConfig().save_pretrained(folder)
    return folder


def test_words_and_punctuation_marks_are_counted() -> None:
    """It ' s 5 - star . is seven."""
    assert count_words("It's 5-star.") == 7
    assert lengths_of(None).of_prompt([Message(role="user", content="hi")]) == 3


def test_a_model_s_own_tokens_are_counted_with_separator_and_end(tokenizer_folder: Path) -> None:
    """One more than the bare encoding on either side: the separator of a prompt, the EOS of a text."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    bare = len(tokenizer.encode("the cat sat", add_special_tokens=False))
    lengths = lengths_of(str(tokenizer_folder))
    assert lengths.of_prompt("the cat sat") == bare + 1
    assert lengths.of_texts(["the cat sat", ""]) == [bare + 1, 1]
