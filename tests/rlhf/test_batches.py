"""Batches: the layout by hand; neither side nor amount of padding changes a logprob."""

from __future__ import annotations

import pytest
import torch

from rlhf.batches import make_batch, positions
from rlhf.heads import response_logits, response_logprobs
from rlhf.logprobs import token_logprobs
from rlhf.models import Policy

PROMPTS = [[5, 6, 7], [8]]
RESPONSES = [[9, 3], [4, 5, 0, 1]]


def test_the_layout_of_a_batch_by_hand() -> None:
    """Prompts end, and responses begin, at the same column; the mask is of lengths, so a token 0 counts."""
    batch = make_batch(PROMPTS, RESPONSES)
    assert batch.input_ids.tolist() == [[5, 6, 7, 9, 3, 0, 0], [0, 0, 8, 4, 5, 0, 1]]
    assert batch.attention_mask.int().tolist() == [[1, 1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 4, 4], [0, 0, 0, 1, 2, 3, 4]]
    assert batch.response_ids.tolist() == [[9, 3, 0, 0], [4, 5, 0, 1]]
    assert batch.response_mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_empty_responses_make_a_batch_of_width_one() -> None:
    """A column is there, and none of it counts."""
    batch = make_batch([[5], [6, 7]], [[], []])
    assert batch.response_ids.tolist() == [[0], [0]]
    assert not batch.response_mask.any()


def test_positions_start_at_each_rows_first_token() -> None:
    """The cumulative mask less one, and never below 0."""
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    assert positions(mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_padding_of_either_side_and_any_amount_changes_no_logprob(name: str, request: pytest.FixtureRequest) -> None:
    """Alone or together, with 0 or 9 more columns left and right: the same logprobs."""
    policy: Policy = request.getfixturevalue(name)
    with torch.no_grad():
        alone = [
            response_logprobs(policy.model, make_batch([prompt], [response]))[0]
            for prompt, response in zip(PROMPTS, RESPONSES, strict=True)
        ]
        for prompt_width, response_width in [(3, 4), (12, 4), (3, 13), (12, 13)]:
            batch = make_batch(PROMPTS, RESPONSES, prompt_width=prompt_width, response_width=response_width)
            together = response_logprobs(policy.model, batch)
            for row, expected in enumerate(alone):
                torch.testing.assert_close(together[row, : len(expected)], expected, atol=2e-5, rtol=1e-5)
            assert together[~batch.response_mask].abs().max() == 0.0 if (~batch.response_mask).any() else True


def test_absolute_positions_without_position_ids_would_differ(gpt2: Policy) -> None:
    """The invariance above is earned: counting columns instead of tokens changes GPT-2's logprobs."""
    batch = make_batch(PROMPTS, RESPONSES, prompt_width=12)
    columns = torch.arange(batch.input_ids.shape[1]).expand_as(batch.position_ids)
    with torch.no_grad():
        ours = response_logprobs(gpt2.model, batch)
        wrong = response_logprobs(gpt2.model, batch._replace(position_ids=columns))
    assert (ours - wrong).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_logits_are_those_that_predict_each_response_token(name: str, request: pytest.FixtureRequest) -> None:
    """The logits at column t - 1 of a plain forward, with no padding and no other argument, predict token t."""
    policy: Policy = request.getfixturevalue(name)
    prompt, response = PROMPTS[0], RESPONSES[0]
    with torch.no_grad():
        plain = policy.model(torch.tensor([prompt + response])).logits
        ours = response_logits(policy.model, make_batch([prompt], [response]))
        logprobs = response_logprobs(policy.model, make_batch([prompt], [response]), temperature=0.7)
    torch.testing.assert_close(ours, plain[:, len(prompt) - 1 : -1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logprobs, token_logprobs(ours, torch.tensor([response]), 0.7))
