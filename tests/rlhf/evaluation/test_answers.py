"""Answers: greedy ones, samples that two models draw alike, and the KL against an exact count."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch

from rlhf.batches import make_batch
from rlhf.evaluation.answers import greedy_answers, sampled_answers, sequence_kl
from rlhf.generation import generate
from rlhf.heads import response_logprobs
from rlhf.models import Policy
from rlhf.records import Sampling

PROMPTS = ["a", "b c d", "e e"]


@pytest.fixture
def other(speller: Policy, clone: Callable[[Policy], Policy]) -> Policy:
    """The eight-word model, a little apart from itself."""
    policy = clone(speller)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=draw))
    return policy


def test_greedy_answers_are_the_likeliest_tokens(llama: Policy) -> None:
    """Token by token the argmax of a plain forward, in the order of the prompts whatever the batch."""
    prompts = ["name[Quill]", "kind[diner], dish[tapas]", "a"]
    answers = greedy_answers(llama, prompts, max_new_tokens=6, batch_size=2)
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = llama.encode_prompt(prompt)
        start = len(ids)
        with torch.no_grad():
            while len(ids) < start + 6 and ids[-1] != llama.eos_id:
                ids.append(int(llama.model(torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer == llama.decode(ids[start:])


def test_samples_come_by_prompt_and_by_seed(llama: Policy) -> None:
    """Three for each prompt, all from seeds of their own, the same for any batch size."""
    prompts = ["name[Quill]", "kind[diner]"]
    rows = sampled_answers(llama, prompts, samples=3, max_new_tokens=5, seed=10, batch_size=64)
    assert [len(row) for row in rows] == [3, 3]
    assert len({text for row in rows for text in row}) == 6
    settings = [Sampling(max_new_tokens=5)]
    for number, (prompt, place) in enumerate(itertools.product(prompts, range(3))):
        assert rows[prompts.index(prompt)][place] == generate(llama, [prompt], settings, [10 + number])[0].text
    assert sampled_answers(llama, prompts, 3, 5, seed=10, batch_size=2) == rows
    assert sampled_answers(llama, prompts, 3, 5, seed=11, batch_size=64) != rows


def test_the_kl_of_a_model_to_itself_is_nought(speller: Policy, clone: Callable[[Policy], Policy]) -> None:
    """Within rounding, for samples of any length."""
    kl = sequence_kl(speller, clone(speller), PROMPTS, max_new_tokens=5, seed=0, batch_size=2)
    assert kl == pytest.approx(0.0, abs=1e-5)


def exact_kl(policy: Policy, reference: Policy, prompt: list[int]) -> tuple[float, float]:
    """Mean and deviation of logπ - logπ_ref over every response of at most two tokens, weighted by π."""
    words, eos = range(len(policy.tokenizer)), policy.eos_id
    responses = [[eos], *([one, two] for one, two in itertools.product(words, words) if one != eos)]
    batch = make_batch([prompt] * len(responses), responses)
    with torch.no_grad():
        ours, theirs = (response_logprobs(model.model, batch).double().sum(1) for model in (policy, reference))
    assert ours.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    mean = (ours.exp() * (ours - theirs)).sum()
    return mean.item(), ((ours.exp() * (ours - theirs - mean) ** 2).sum() ** 0.5).item()


def test_the_kl_is_that_of_an_exact_count(speller: Policy, other: Policy) -> None:
    """Over 3,000 samples of at most two words, within 4 standard errors, which are a fraction of it."""
    mean, deviation = exact_kl(other, speller, other.encode_prompt("a b"))
    kl = sequence_kl(other, speller, ["a b"] * 3000, max_new_tokens=2, seed=5, batch_size=1000)
    error = deviation / 3000**0.5
    assert 4 * error < mean / 2
    assert kl == pytest.approx(mean, abs=4 * error)


def test_the_kl_is_per_sequence_whatever_the_batch(speller: Policy, other: Policy) -> None:
    """A sum over tokens and a mean over prompts, so that batches of unequal size weigh each prompt alike."""
    prompts = ["a", "b c d", "e e", "d", "c a"]
    whole, parts = (sequence_kl(other, speller, prompts, 6, 1, batch_size) for batch_size in (64, 2))
    assert parts == pytest.approx(whole, abs=1e-4)
