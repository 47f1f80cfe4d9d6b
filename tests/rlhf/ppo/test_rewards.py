"""Rewards per token: the score at the last token, the KL at every one."""

from __future__ import annotations

import torch

from rlhf.ppo.rewards import final_scores, length_penalty, token_rewards

MASK = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
SCORES = torch.tensor([2.0, -1.0, 0.5])


def test_the_score_stands_at_the_last_token_and_the_kl_everywhere() -> None:
    """β = ½ and d = .2, -.4, 0 by column; rows of 3, 1 and 2 tokens; what is padded gets nothing.

    First row: -.1, .2, 0 + 2. Second: -.1 - 1. Third: -.1, .2 + .5.
    """
    ref_logprobs = torch.full((3, 3), -1.0)
    logprobs = ref_logprobs + torch.tensor([0.2, -0.4, 0.0])
    rewards = token_rewards(SCORES, logprobs, ref_logprobs, MASK, kl_coefficient=0.5)
    expected = torch.tensor([[-0.1, 0.2, 2.0], [-1.1, 0.0, 0.0], [-0.1, 0.7, 0.0]])
    torch.testing.assert_close(rewards, expected)


def test_a_row_of_rewards_sums_to_score_minus_beta_times_kl() -> None:
    """Whatever the lengths: Σ r = score - β·Σ d over the response."""
    draw = torch.Generator().manual_seed(0)
    logprobs, ref_logprobs = -torch.rand(2, 3, 3, generator=draw)
    rewards = token_rewards(SCORES, logprobs, ref_logprobs, MASK, kl_coefficient=0.3)
    kl = torch.where(MASK, logprobs - ref_logprobs, 0.0).sum(1)
    torch.testing.assert_close(rewards.sum(1), SCORES - 0.3 * kl)


def test_arguments_are_left_alone() -> None:
    """Adding the score in place would spoil what the caller holds."""
    logprobs, ref_logprobs, scores = torch.zeros(3, 3), torch.zeros(3, 3), SCORES.clone()
    token_rewards(scores, logprobs, ref_logprobs, MASK, 0.1)
    assert torch.equal(scores, SCORES)
    assert logprobs.abs().sum() == ref_logprobs.abs().sum() == 0.0


def test_an_unfinished_completion_gets_the_penalty_instead_of_its_score() -> None:
    """However good the reward model finds it."""
    finished = torch.tensor([True, False, True])
    assert final_scores(SCORES, finished, -3.0).tolist() == [2.0, -3.0, 0.5]


def test_an_unfinished_completion_may_keep_its_score_less_a_penalty() -> None:
    """Reduced instead of replaced: 2 − 1 = 1; a finished one is left alone."""
    scores, finished = torch.tensor([2.0, 0.5]), torch.tensor([False, True])
    assert final_scores(scores, finished, -1.0, replace=False).tolist() == [1.0, 0.5]


def test_length_costs_past_what_is_free() -> None:
    """At .5 a token past 10: 9 and 10 tokens cost nothing, 13 cost 1.5."""
    assert length_penalty(torch.tensor([9, 10, 13]), 0.5, 10).tolist() == [0.0, 0.0, 1.5]
