"""Models as small as they get: a llama, a GPT-2, a T5 and a BART on a trained BPE, and a llama of eight words."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from rlhf import corpus
from rlhf.models import Policy, build_policy
from rlhf.tokenizers import train_tokenizer

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "initializer_range": 0.3,  # the usual 0.02 gives nearly equal logits, which would hide errors
}
GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_positions": 64,
    "initializer_range": 0.3,
}
T5: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
}
BART: dict[str, Any] = {
    "model_type": "bart",
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
    "init_std": 0.3,
}
WORDS = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Several threads cost tiny models more than they give."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bpe() -> Any:
    """A small byte-level BPE, trained on the builtin corpus."""
    rows = corpus.make_demonstrations(60, seed=0)
    return train_tokenizer((text for row in rows for text in (str(row.prompt), row.response)), 300)


@pytest.fixture(scope="session")
def words() -> Any:
    """A tokenizer of eight words: <pad> 0, <eos> 1, <sep> 2, and a … e."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: place for place, word in enumerate(("<pad>", "<eos>", "<sep>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", sep_token="<sep>", unk_token="<pad>"
    )


@pytest.fixture(scope="session")
def llama(bpe: Any) -> Policy:
    """A llama of two layers; tests that train one take a copy."""
    return build_policy(LLAMA, bpe, seed=0)


@pytest.fixture(scope="session")
def gpt2(bpe: Any) -> Policy:
    """A GPT-2 of two layers: learnt absolute positions, a context of 64, and dropout when it trains."""
    return build_policy(GPT2, bpe, seed=1)


def framed(tokenizer: Any, template: str) -> Any:
    """A copy of a tokenizer that frames an encoder's input, as those of T5 (`$A <eos>`) and BART do."""
    from tokenizers.processors import TemplateProcessing

    framing = copy.deepcopy(tokenizer)
    ids = [(token, framing.convert_tokens_to_ids(token)) for token in ("<sep>", "<eos>")]
    framing.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=ids)
    return framing


@pytest.fixture(scope="session")
def t5(bpe: Any) -> Policy:
    """A T5 of two layers: relative positions, and states that are scaled before the head."""
    return build_policy(T5, framed(bpe, "$A <eos>"), seed=3)


@pytest.fixture(scope="session")
def bart(bpe: Any) -> Policy:
    """A BART of two layers: learnt absolute positions, and a bias on the logits."""
    policy = build_policy(BART, framed(bpe, "<sep> $A <eos>"), seed=4)
    policy.model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(0))
    return policy


@pytest.fixture(scope="session")
def speller(words: Any) -> Policy:
    """A llama over eight words, so that every sequence can be counted."""
    return build_policy(LLAMA, words, seed=2)


@pytest.fixture(scope="session")
def clone() -> Callable[[Policy], Policy]:
    """A copy of a policy that may be trained."""
    return lambda policy: Policy(copy.deepcopy(policy.model), policy.tokenizer)


@pytest.fixture(scope="session")
def poison() -> Callable[[torch.nn.Module, int], None]:
    """Makes one call of a module, counted from 1, answer NaN."""

    def spoil(module: torch.nn.Module, call: int) -> None:
        calls = iter(range(1, 10**6))
        module.register_forward_hook(lambda _, __, output: output * (math.nan if next(calls) == call else 1.0))

    return spoil


class Wordiness:
    """A scorer of our own: 1 for a text with the word `a`, else -1. It notes what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[object, str]] = []

    def score(self, prompts: Sequence[object], completions: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        self.shown += zip(prompts, completions, strict=True)
        return torch.tensor([1.0 if "a" in text.split() else -1.0 for text in completions])


@pytest.fixture
def wordiness() -> Wordiness:
    """A scorer for PPO that needs no model."""
    return Wordiness()
