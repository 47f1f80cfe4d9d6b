"""Token logprobs, entropy and KL estimators: by hand, against torch.distributions, and by Monte Carlo."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from rlhf.logprobs import kl_estimate, token_logprobs, token_statistics


@pytest.fixture
def logits() -> torch.Tensor:
    """[2, 3, 5] logits of size 3 or so, about a far-off mean that a careless exponential would overflow on."""
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)) * 3 + 200


def test_token_logprobs_by_hand() -> None:
    """Logits log 1, log 2, log 5 are probabilities 1/8, 2/8, 5/8; at temperature ½ they are 1/30, 4/30, 25/30."""
    logits = torch.tensor([[[1.0, 2.0, 5.0], [1.0, 2.0, 5.0]]]).log()
    tokens = torch.tensor([[0, 2]])
    assert token_logprobs(logits, tokens)[0].exp().tolist() == pytest.approx([1 / 8, 5 / 8])
    assert token_logprobs(logits, tokens, temperature=0.5)[0].exp().tolist() == pytest.approx([1 / 30, 25 / 30])


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
def test_logprobs_and_entropy_are_those_of_the_categorical_distribution(
    logits: torch.Tensor, temperature: float
) -> None:
    """torch.distributions agrees, at every temperature."""
    distribution = Categorical(logits=logits / temperature)
    tokens = torch.tensor([[0, 4, 2], [1, 1, 3]])
    both = token_statistics(logits, tokens, temperature)
    assert both.logprobs.equal(token_logprobs(logits, tokens, temperature))
    # At logits of 200, float32 keeps 5 decimals.
    torch.testing.assert_close(both.logprobs, distribution.log_prob(tokens), atol=1e-4, rtol=0)
    torch.testing.assert_close(both.entropy, distribution.entropy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_their_gradients_are_those_of_finite_differences(logits: torch.Tensor, temperature: float) -> None:
    """In double precision, of either and of both; bfloat16 logits get gradients of their own type."""
    tokens = torch.tensor([[0, 4, 2], [1, 1, 3]])
    exact = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: token_statistics(z, tokens, temperature), exact)
    assert torch.autograd.gradcheck(lambda z: token_logprobs(z, tokens, temperature), exact)
    half = logits.bfloat16().requires_grad_()
    token_statistics(half, tokens).logprobs.sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("cached", [1, 10])
def test_rows_taken_a_few_at_a_time_are_as_all_at_once(
    logits: torch.Tensor, cached: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six rows of five logits one by one, and two by two: the same figures, and the same gradients, bit for bit."""
    tokens = torch.tensor([[0, 4, 2], [1, 1, 3]])

    def measure() -> tuple[torch.Tensor, ...]:
        given = logits.clone().requires_grad_()
        both = token_statistics(given, tokens, 0.6)
        (both.logprobs.exp() + both.entropy).sum().backward()
        assert given.grad is not None
        return *both, token_logprobs(logits, tokens, 0.6), given.grad

    whole = measure()
    monkeypatch.setattr("rlhf.logprobs.CACHED_LOGITS", cached)
    for few, all_at_once in zip(measure(), whole, strict=True):
        assert few.equal(all_at_once)


def test_the_entropy_of_equal_logits_is_the_logarithm_of_their_number() -> None:
    """log 5 nats at every place."""
    zeros = torch.zeros(1, 2, dtype=torch.long)
    assert token_statistics(torch.zeros(1, 2, 5), zeros).entropy[0].tolist() == pytest.approx([math.log(5)] * 2)


def test_bfloat16_logits_are_summed_in_float32() -> None:
    """Half-precision logits give float32 logprobs, equal to those of the same numbers in float32."""
    logits = torch.randn(1, 2, 7, generator=torch.Generator().manual_seed(1)).bfloat16()
    tokens = torch.tensor([[3, 6]])
    assert token_logprobs(logits, tokens).dtype == torch.float32
    torch.testing.assert_close(token_logprobs(logits, tokens), token_logprobs(logits.float(), tokens))


def test_kl_estimators_by_hand() -> None:
    """With d = log 2: k1 = log 2, k2 = (log 2)²/2, k3 = ½ - 1 + log 2; with d = -log 2, k3 = 2 - 1 - log 2."""
    d = math.log(2)
    logprobs, ref_logprobs = torch.tensor([-1.0, -1.0 - d]), torch.tensor([-1.0 - d, -1.0])
    assert kl_estimate(logprobs, ref_logprobs, "k1").tolist() == pytest.approx([d, -d])
    assert kl_estimate(logprobs, ref_logprobs, "k2").tolist() == pytest.approx([d * d / 2] * 2)
    assert kl_estimate(logprobs, ref_logprobs, "k3").tolist() == pytest.approx([d - 0.5, 1 - d], abs=1e-6)


def test_k1_and_k3_are_unbiased_and_k2_is_nearly_so() -> None:
    """Over 100,000 samples k1 and k3 meet the exact KL within 4 standard errors, k2 within a tenth of it."""
    torch.manual_seed(0)
    ours = Categorical(logits=torch.tensor([0.3, -0.2, 0.1, 0.6]))
    reference = Categorical(logits=torch.tensor([0.0, 0.1, 0.5, 0.1]))
    exact = kl_divergence(ours, reference).item()
    tokens = ours.sample((100_000,))
    draws = {name: kl_estimate(ours.log_prob(tokens), reference.log_prob(tokens), name) for name in ("k1", "k2", "k3")}
    for name in ("k1", "k3"):
        error = (draws[name].std() / len(tokens) ** 0.5).item()
        assert draws[name].mean().item() == pytest.approx(exact, abs=4 * error)
        assert 4 * error < exact / 5  # else the line above could not fail
    assert draws["k2"].mean().item() == pytest.approx(exact, rel=0.1)
    assert draws["k3"].std() < draws["k1"].std()
    assert draws["k3"].min() >= 0.0


def test_far_apart_logprobs_stay_finite() -> None:
    """The log-ratio is clamped at 20, so k3 is at most e²⁰ - 21."""
    far = kl_estimate(torch.tensor([-500.0, 0.0]), torch.tensor([0.0, -500.0]), "k3")
    assert far.tolist() == pytest.approx([math.exp(20) - 21, 19.0])


def test_an_unknown_estimator_is_named() -> None:
    """The error says what was found and what there is."""
    with pytest.raises(ValueError, match="'k4'; expected k1, k2 or k3"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")
