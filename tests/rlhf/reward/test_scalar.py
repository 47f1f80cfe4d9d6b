"""The scalar reward model: its equation term by term, from a plain forward without padding."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from rlhf.models import Policy
from rlhf.reward.scalar import ScalarReward

PROMPTS = ["name[Quill]", "name[Kestrel], kind[diner]", "kind[tavern]"]
COMPLETIONS = ["Quill is a diner.", "Kestrel", ""]


def by_hand(network: ScalarReward, prompt: str, completion: str) -> torch.Tensor:
    """w·h_last + a·Σ log p + b·mean log p of one completion with its EOS."""
    ids = network.policy.encode_prompt(prompt)
    response = network.policy.encode_response(completion, network.max_completion_tokens)
    output = network.backbone(torch.tensor([ids + response]), output_hidden_states=True)
    score = network.head(output.hidden_states[-1][0, -1])[0]
    logprobs = output.logits[0, len(ids) - 1 : -1].log_softmax(-1)[range(len(response)), response]
    total, mean = network.likelihood_weights
    return score + total * logprobs.sum() + mean * logprobs.mean()


@torch.no_grad()
def test_the_score_is_the_equation_term_by_term(scalar: ScalarReward) -> None:
    """Three rows padded on both sides, one of them EOS alone, with weights that tell the terms apart."""
    scalar.likelihood_weights.copy_(torch.tensor([0.3, -2.0]))
    scalar.head.bias.fill_(0.7)
    scores = scalar(scalar.encode(PROMPTS, COMPLETIONS))
    for score, prompt, completion in zip(scores, PROMPTS, COMPLETIONS, strict=True):
        torch.testing.assert_close(score, by_hand(scalar, prompt, completion), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_without_the_feature_the_head_alone_scores(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """a = b = 0, and neither weight is trained."""
    torch.manual_seed(0)
    network = ScalarReward(clone(llama), loglikelihood=False, max_completion_tokens=40)
    assert not network.likelihood_weights.requires_grad
    scores = network(network.encode(PROMPTS, COMPLETIONS))
    network.likelihood_weights.zero_()
    for score, prompt, completion in zip(scores, PROMPTS, COMPLETIONS, strict=True):
        torch.testing.assert_close(score, by_hand(network, prompt, completion), atol=1e-4, rtol=1e-5)


def test_every_part_of_the_score_is_trained(scalar: ScalarReward) -> None:
    """Head, log-likelihood weights and backbone each get a gradient."""
    scalar(scalar.encode(PROMPTS, COMPLETIONS)).sum().backward()
    for name, weight in scalar.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_completions_are_cut_at_their_limit(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """Four tokens, EOS among them only where it fits."""
    network = ScalarReward(clone(llama), loglikelihood=True, max_completion_tokens=4)
    batch = network.encode(["name[Quill]"] * 2, ["Quill is a diner.", ""])
    assert batch.response_mask.sum(1).tolist() == [4, 1]
    assert batch.response_ids[1, 0].item() == llama.eos_id
    assert llama.eos_id not in batch.response_ids[0].tolist()


def test_the_head_starts_small(llama: Policy, clone: Callable[[Policy], Policy]) -> None:
    """Deviation 1 / (hidden + 1): over 200 heads of width 16, 1/17 within a tenth."""
    torch.manual_seed(0)
    policy = clone(llama)
    heads = torch.cat([ScalarReward(policy, True, 4).head.weight.detach() for _ in range(200)])
    assert heads.std().item() == pytest.approx(1 / 17, rel=0.1)
