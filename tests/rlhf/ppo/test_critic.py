"""The critic: a network of its own, which sees the past alone and starts by saying 0."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rlhf.batches import make_batch
from rlhf.models import Policy
from rlhf.ppo.critic import Critic

PROMPTS, RESPONSES = [[5, 6, 7], [8]], [[9, 3], [4, 5, 6, 1]]


def critic_of(policy: Policy) -> Critic:
    """A critic whose head is random, so that its values differ."""
    critic = Critic(policy.model.base_model, policy.hidden)
    torch.nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(0))
    return critic


def test_a_new_critic_says_zero(llama: Policy) -> None:
    """The mean of normalised scores is the best guess of one that knows nothing."""
    critic = Critic(llama.model.base_model, llama.hidden)
    values = critic(make_batch(PROMPTS, RESPONSES))
    assert values.shape == (2, 4)
    assert values.abs().max() == 0.0


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@torch.no_grad()
def test_a_value_is_read_off_the_state_before_its_token(name: str, request: pytest.FixtureRequest) -> None:
    """V_t is the head on the hidden state at column t - 1 of a plain forward; padded places are 0."""
    policy: Policy = request.getfixturevalue(name)
    critic = critic_of(policy)
    batch = make_batch(PROMPTS, RESPONSES, prompt_width=6, response_width=7)
    values = critic(batch)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        hidden = policy.model.base_model(torch.tensor([prompt + response])).last_hidden_state[0]
        expected = hidden[len(prompt) - 1 : -1] @ critic.head.weight[0] + critic.head.bias
        torch.testing.assert_close(values[row, : len(response)], expected, atol=2e-5, rtol=1e-5)
        assert values[row, len(response) :].abs().sum() == 0.0


@torch.no_grad()
def test_a_value_does_not_see_its_own_token(llama: Policy) -> None:
    """Another token at place 2 changes the values after it and none up to it."""
    critic = critic_of(llama)
    first = critic(make_batch([[5, 6]], [[9, 3, 4, 7]]))[0]
    second = critic(make_batch([[5, 6]], [[9, 3, 8, 7]]))[0]
    torch.testing.assert_close(first[:3], second[:3])
    assert (first[3] - second[3]).abs() > 1e-3


def test_the_critic_shares_no_weight_with_its_start(llama: Policy) -> None:
    """Training it must not move the policy or the reward model it was copied from."""
    critic = Critic(llama.model.base_model, llama.hidden)
    theirs = {weight.data_ptr() for weight in llama.model.parameters()}
    assert not theirs & {weight.data_ptr() for weight in critic.parameters()}


def test_a_critic_in_half_precision_is_trained_in_full(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """A bfloat16 start gives a float32 critic."""
    policy = clone(llama)
    policy.model.bfloat16()
    assert {weight.dtype for weight in Critic(policy.model.base_model, 16).parameters()} == {torch.float32}


def test_a_critic_started_from_a_frozen_network_learns(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """The reference is frozen; its copy is not."""
    policy = clone(llama)
    policy.model.requires_grad_(False)
    critic = critic_of(policy)
    critic(make_batch(PROMPTS, RESPONSES)).sum().backward()
    assert all(weight.grad is not None for weight in critic.parameters())
