"""Small reward models of both kinds, and pairs on which they differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlhf.models import Policy
from rlhf.records import Pair
from rlhf.reward.encoder import EncoderReward, build_encoder
from rlhf.reward.scalar import ScalarReward

PROMPTS = ["name[Quill]", "name[Kestrel], kind[diner]", "kind[tavern], dish[tapas], price[cheap]", "name[Quill]"]
COMPLETIONS = ["Quill is a diner.", "Kestrel", "A tavern called Quill serves tapas at cheap prices.", ""]
ENCODER: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}


@pytest.fixture
def scalar(llama: Policy, clone: Callable[[Policy], Policy]) -> ScalarReward:
    """A scalar head with the log-likelihood feature on a copy of the tiny llama."""
    torch.manual_seed(0)
    return ScalarReward(clone(llama), loglikelihood=True, max_completion_tokens=40)


@pytest.fixture
def encoder() -> EncoderReward:
    """A BERT of one layer with its own WordPiece."""
    torch.manual_seed(0)
    model, tokenizer = build_encoder(ENCODER, [*PROMPTS, *COMPLETIONS] * 2, 400, "cpu")
    return EncoderReward(model, tokenizer, max_tokens=60, frozen=False)


@pytest.fixture(params=["scalar", "encoder"])
def network(request: pytest.FixtureRequest) -> ScalarReward | EncoderReward:
    """Either kind."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def pairs() -> list[Pair]:
    """A ranking of three completions as its three pairs, a pair of another ranking, and one of none."""
    best, middle, worst = "Quill is a diner.", "Quill is.", "Diner"
    rows = [
        {"prompt": "name[Quill], kind[diner]", "chosen": best, "rejected": middle, "ranking": "r1"},
        {"prompt": "name[Quill], kind[diner]", "chosen": best, "rejected": worst, "ranking": "r1"},
        {"prompt": "name[Kestrel]", "chosen": "Kestrel is a tavern.", "rejected": "A tavern", "ranking": "r2"},
        {"prompt": "name[Quill], kind[diner]", "chosen": middle, "rejected": worst, "ranking": "r1"},
        {"prompt": "name[Kestrel]", "chosen": "Kestrel is a tavern.", "rejected": "A"},
    ]
    return [Pair.model_validate({"annotator": "ann", **row}) for row in rows]
