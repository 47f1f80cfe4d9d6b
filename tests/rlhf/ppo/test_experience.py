"""Where the algorithms differ: what each makes of the same scores and KL."""

from __future__ import annotations

import pytest
import torch

from rlhf.masking import masked_mean
from rlhf.ppo.experience import Estimate, estimate_advantages
from rlhf.settings.policy import PolicySettings

MASK = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
SCORES = torch.tensor([1.0, 2.0, 0.0, 4.0])
LOGPROBS = torch.tensor([[-1.0, -2.0], [-1.5, 0.0], [-0.5, -0.5], [-3.0, 0.0]])
# log π − log π_ref per completion: .5 + .5 = 1, −1, 0, 2
REF_LOGPROBS = LOGPROBS - torch.tensor([[0.5, 0.5], [-1.0, 9.0], [0.25, -0.25], [2.0, 9.0]])


def estimate(values: torch.Tensor | None = None, **fields: object) -> Estimate:
    """With β = ½, and the completions of two prompts, two each."""
    defaults = {"iterations": 1, "prompts_per_iteration": 2, "completions": 2, "gae_lambda": 1.0}
    settings = PolicySettings.model_validate(defaults | fields)
    return estimate_advantages(SCORES, LOGPROBS, REF_LOGPROBS, values, MASK, settings, 0.5)


# R − ½·(1 + KL): 1 − 1 = 0, 2 − 0 = 2, 0 − ½ = −½, 4 − 1½ = 2½. What lies past a completion's end never counts.
RETURNS = [0.0, 2.0, -0.5, 2.5]


@pytest.mark.parametrize(
    ("algorithm", "advantages", "baselines"),
    [
        # over the batch: each less the mean of the three others, e.g. 0 − (2 − ½ + 2½)/3 = −4/3
        ("reinforce", [-4 / 3, 4 / 3, -2.0, 2.0], [4 / 3, 2 / 3, 1.5, 0.5]),
        # over the prompt: 0 − 2, 2 − 0, −½ − 2½, 2½ + ½
        ("rloo", [-2.0, 2.0, -3.0, 3.0], [2.0, 0.0, 2.5, -0.5]),
        # scores: means 1½ and 2, deviations ½ and 2, each with 1e-4 on top; the KL −½·(1 + 1) and so on
        (
            "grpo",
            [-0.5 / 0.5001 - 1, 0.5 / 0.5001 + 1, -2 / 2.0001 + 1, 2 / 2.0001 - 1],
            [1.5 - 0, 1.5 - 1, 2 - 1.5, 2 - 0.5],
        ),
    ],
)
def test_what_each_algorithm_without_a_critic_makes_of_the_same_scores(
    algorithm: str, advantages: list[float], baselines: list[float]
) -> None:
    """By hand, at every token of the completion and nowhere else."""
    found = estimate(algorithm=algorithm)
    for ours, expected in zip(found[:3], (advantages, RETURNS, baselines), strict=True):
        spread = torch.where(MASK, torch.tensor(expected)[:, None], 0.0)
        torch.testing.assert_close(ours, spread, atol=1e-6, rtol=0)


def test_ppo_estimates_every_token_with_its_critic() -> None:
    """With γ = λ = 1: the rest of the rewards less the value. First row: 1 − ½·(½ + ½) = ½, then 1 − ¼ = ¾."""
    values = torch.where(MASK, 0.25, 0.0)
    found = estimate(values, algorithm="ppo")
    assert found.returns[0].tolist() == pytest.approx([0.5, 0.75])
    assert found.advantages[0].tolist() == pytest.approx([0.25, 0.5])
    assert found.returns[1].tolist() == pytest.approx([2.5, 0.0])  # 2 + ½·1
    assert torch.equal(found.values, values)


def test_whitened_rewards_keep_their_mean() -> None:
    """The rewards are −¼, ¾ | 2½ | −⅛, ⅛ | 3: their mean stays 1, their deviation becomes 1."""
    rewards = torch.tensor([[-0.25, 0.75], [2.5, 0.0], [-0.125, 0.125], [3.0, 0.0]])
    mean = masked_mean(rewards, MASK)
    deviation = torch.sqrt(masked_mean((rewards - mean) ** 2, MASK))
    whitened = torch.where(MASK, (rewards - mean) / deviation + mean, 0.0)
    found = estimate(torch.zeros(4, 2), algorithm="ppo", whiten_rewards=True)
    assert mean.item() == pytest.approx(1.0)
    torch.testing.assert_close(found.returns[:, 0], whitened.sum(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.returns[0, 1], whitened[0, 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("algorithm", ["reinforce", "rloo", "grpo"])
@pytest.mark.parametrize("completions", range(2, 7))
def test_equal_scores_teach_nothing(algorithm: str, completions: int) -> None:
    """Exactly 0 for every constant and number of completions: a mean in float32 may be another than what it is of."""
    settings = PolicySettings.model_validate(
        {"iterations": 1, "prompts_per_iteration": 2, "completions": completions, "algorithm": algorithm}
    )
    mask, zeros = torch.ones(2 * completions, 1, dtype=torch.bool), torch.zeros(2 * completions, 1)
    for score in torch.randn(50, generator=torch.Generator().manual_seed(0)).tolist():
        scores = torch.full((2 * completions,), score)
        assert not estimate_advantages(scores, zeros, zeros, None, mask, settings, 0.1).advantages.any()


def test_equal_scores_leave_the_kl_its_price() -> None:
    """GRPO of one prompt's four equal scores: −β·(KL less that of the others), and no unit of noise."""
    settings = PolicySettings.model_validate(
        {"iterations": 1, "prompts_per_iteration": 1, "completions": 4, "algorithm": "grpo"}
    )
    kl = torch.tensor([[0.001], [0.002], [0.003], [0.006]])
    found = estimate_advantages(torch.ones(4), kl, 0 * kl, None, kl > 0, settings, 0.1).advantages
    # .001 less 11/3 thousandths, .002 less 10/3, .003 less 3, .006 less 2
    expected = torch.tensor([[8 / 3], [4 / 3], [0.0], [-4.0]]) * 1e-4
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)


def test_the_price_of_a_nat_is_in_units_of_the_advantages() -> None:
    """β as it is, and where rewards are whitened β over their deviation."""
    rewards = torch.tensor([-0.25, 0.75, 2.5, -0.125, 0.125, 3.0])
    assert estimate(algorithm="rloo").kl_price.item() == 0.5
    found = estimate(torch.zeros(4, 2), algorithm="ppo", whiten_rewards=True).kl_price
    assert found.item() == pytest.approx(0.5 / rewards.std(correction=0).item())
