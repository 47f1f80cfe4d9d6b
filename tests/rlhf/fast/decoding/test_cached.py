"""The sampler's fast path, held to plain forwards of the whole text for every family that it knows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from rlhf.adapters import attach, merge
from rlhf.batches import make_batch, response_states
from rlhf.drawing.decoders import Decoder
from rlhf.drawing.samples import Samples
from rlhf.fast.decoding.cached import CachedDecoder
from rlhf.generation import sample, sampler
from rlhf.generation.decoding import ForwardDecoder, prompt_inputs
from rlhf.heads import response_logprobs
from rlhf.models import Policy, build_policy
from rlhf.records import Sampling
from rlhf.settings.adapters import AdapterSettings

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
SHARED = {"num_key_value_heads": 2}
WINDOW = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
GPT2: dict[str, Any] = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.3}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 2.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", **GPT2},
    "gpt2, untied, scaled by layer": {
        "model_type": "gpt2",
        **GPT2,
        "tie_word_embeddings": False,
        "scale_attn_by_inverse_layer_idx": True,
        "activation_function": "gelu",
    },
    "llama, tied": {"model_type": "llama", **SIZES, "tie_word_embeddings": True},
    "llama, two heads share keys": {"model_type": "llama", **SIZES, **SHARED},
    "llama, biases, one key head": {
        "model_type": "llama",
        **SIZES,
        "num_key_value_heads": 1,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "llama, llama3's frequencies": {"model_type": "llama", **SIZES, "rope_parameters": LLAMA3},
    "llama, yarn": {"model_type": "llama", **SIZES, "rope_parameters": YARN},
    "mistral": {"model_type": "mistral", **SIZES, **SHARED, "head_dim": 6, "sliding_window": 40},
    "qwen2": {"model_type": "qwen2", **SIZES, **SHARED},
    "qwen3": {"model_type": "qwen3", **SIZES, **SHARED, "head_dim": 8},
}
PROMPTS = [[3, 4, 5], [6], [7, 3, 3, 5, 6, 4, 9, 8], [5, 7], [3, 4, 5], [5, 5, 5, 5]]
MIXED = [
    Sampling(max_new_tokens=14),
    Sampling(temperature=0.7, top_k=9, max_new_tokens=24),
    Sampling(temperature=1.3, top_p=0.8, repetition_penalty=1.3, max_new_tokens=3),
    Sampling(temperature=0.0, max_new_tokens=9),
    Sampling(min_p=0.05, min_new_tokens=4, max_new_tokens=18),
    Sampling(temperature=0.0, repetition_penalty=1.5, max_new_tokens=1),
]
SEEDS = [1, 2**62, 3, 4, 5, 6]


@pytest.fixture(params=FAMILIES)
def policy(request: pytest.FixtureRequest, bpe: Any) -> Policy:
    """Each family in turn."""
    return random_policy(request.param, bpe)


def random_policy(family: str, bpe: Any) -> Policy:
    """Random weights: biases and the norms' weights too, which are 0 and 1 at birth."""
    policy = build_policy(FAMILIES[family], bpe, seed=0)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in policy.model.parameters():
            if weight.ndim == 1:
                weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return policy


def plain(policy: Policy, prompt: Sequence[int], settings: Sampling, seed: int) -> tuple[list[int], list[float]]:
    """One row, one forward of the whole text a token, no cache; the plain inverse of the cumulative distribution."""
    uniform = torch.rand(settings.max_new_tokens, generator=torch.Generator().manual_seed(seed))
    tokens: list[int] = []
    logprobs: list[float] = []
    for step in range(settings.max_new_tokens):
        text = torch.tensor([[*prompt, *tokens]])
        with torch.no_grad():
            logits = policy.model(text).logits[0, -1].double()
        scaled = logits / (settings.temperature or 1.0)
        chances = filtered(logits.clone(), text[0], settings, step, policy.eos_id)
        drawn = int((chances.cumsum(0) <= uniform[step].double() * chances.sum()).sum())
        tokens.append(int(chances.argmax()) if settings.temperature == 0.0 else drawn)
        logprobs.append(float(scaled.log_softmax(0)[tokens[-1]]))
        if tokens[-1] == policy.eos_id:
            break
    return tokens, logprobs


def filtered(logits: torch.Tensor, text: torch.Tensor, settings: Sampling, step: int, eos_id: int) -> torch.Tensor:
    """The chances of one row's next token, control by control."""
    seen = logits[text.unique()]
    logits[text.unique()] = torch.where(
        seen > 0, seen / settings.repetition_penalty, seen * settings.repetition_penalty
    )
    if step < settings.min_new_tokens:
        logits[eos_id] = -torch.inf
    logits /= settings.temperature or 1.0
    if settings.top_k:
        logits[logits < logits.sort().values[-settings.top_k]] = -torch.inf
    chances, order = logits.softmax(0).sort(descending=True)
    chances[1:][chances.cumsum(0)[:-1] >= settings.top_p] = 0.0
    chances = torch.zeros_like(chances).scatter(0, order, chances)
    chances[chances < settings.min_p * chances.max()] = 0.0
    return chances / chances.sum()


def decoders(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """The kinds of decoder that `sample` opens from now on."""
    opened: list[type] = []
    own = sampler.open_decoder

    def spy(*args: Any) -> Decoder:
        decoder = own(*args)
        opened.append(type(decoder))
        return decoder

    monkeypatch.setattr(sampler, "open_decoder", spy)
    return opened


def assert_rows_are_plain(policy: Policy, samples: Samples) -> None:
    """Each row is what it would have been alone, without a cache, to 1e-5 in its logprobs."""
    for row, tokens in enumerate(samples.responses()):
        expected, logprobs = plain(policy, PROMPTS[row], MIXED[row], SEEDS[row])
        assert tokens == expected
        assert samples.logprobs[row, : len(tokens)].tolist() == pytest.approx(logprobs, abs=1e-5)


def test_tokens_and_logprobs_are_those_of_plain_forwards(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six rows of unlike lengths, limits and settings, two with one prompt; rows end one by one and are dropped."""
    opened = decoders(monkeypatch)
    samples = sample(policy, PROMPTS, MIXED, SEEDS)
    assert opened == [CachedDecoder]
    assert len(set(samples.lengths.tolist())) >= 4
    assert_rows_are_plain(policy, samples)


def test_logprobs_are_those_of_the_training_forward(policy: Policy) -> None:
    """As PPO needs them: at one temperature, on a ragged batch, to 1e-5."""
    sampling = [Sampling(temperature=0.8, max_new_tokens=length) for length in (20, 3, 11, 20, 20, 7)]
    samples = sample(policy, PROMPTS, sampling, SEEDS)
    batch = make_batch(PROMPTS, samples.responses(), response_width=samples.tokens.shape[1])
    with torch.no_grad():
        fresh = response_logprobs(policy.model, batch, temperature=0.8)
    torch.testing.assert_close(samples.logprobs, fresh, atol=1e-5, rtol=0)


def test_values_are_those_of_the_training_forward(policy: Policy) -> None:
    """Read off the state that each token is drawn from, of rows that end one by one; 0 after the end."""
    sampling = [Sampling(max_new_tokens=length) for length in (20, 3, 11, 20, 20, 7)]
    weights = torch.randn(policy.hidden, generator=torch.Generator().manual_seed(0))
    samples = sample(policy, PROMPTS, sampling, SEEDS, value=lambda states: states @ weights)
    batch = make_batch(PROMPTS, samples.responses(), response_width=samples.tokens.shape[1])
    with torch.no_grad():
        expected = torch.where(batch.response_mask, response_states(policy.model, batch) @ weights, 0.0)
    assert samples.values is not None
    torch.testing.assert_close(samples.values, expected, atol=2e-5, rtol=0)
    assert sample(policy, PROMPTS, sampling, SEEDS).values is None


def test_the_model_is_left_as_it_was_and_read_anew_at_each_call(policy: Policy) -> None:
    """No attribute, buffer or gradient stays behind; weights that were trained in between are those that write."""
    before = sample(policy, PROMPTS, MIXED, SEEDS)
    attributes = {name: set(vars(module)) for name, module in policy.model.named_modules()}
    state = copy.deepcopy(policy.model.state_dict())
    again = sample(policy, PROMPTS, MIXED, SEEDS)
    assert all(torch.equal(one, two) for one, two in zip(before[:4], again[:4], strict=True))
    assert {name: set(vars(module)) for name, module in policy.model.named_modules()} == attributes
    assert all(torch.equal(value, state[name]) for name, value in policy.model.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in policy.model.parameters())
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.mul_(1.3)
    after = sample(policy, PROMPTS, MIXED, SEEDS)
    assert not torch.equal(after.logprobs, before.logprobs)
    assert_rows_are_plain(policy, after)


def test_samples_may_take_part_in_training(policy: Policy) -> None:
    """They are ordinary tensors: a gradient flows through a product with them."""
    samples = sample(policy, PROMPTS, MIXED, SEEDS, value=lambda states: states.sum(-1))
    assert samples.values is not None
    assert not any(tensor.is_inference() for tensor in (*samples[:4], samples.values))
    weight = torch.ones(1, requires_grad=True)
    (weight * samples.logprobs * samples.values).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "mistral", **SIZES, **SHARED, "sliding_window": 8},
        {"model_type": "qwen2", **SIZES, **SHARED, **WINDOW},
        {"model_type": "llama", **SIZES, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        {"model_type": "gemma2", **SIZES, **SHARED, "head_dim": 8, "sliding_window": 8},
        {"model_type": "opt", "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_attention_heads": 2},
        {"model_type": "mixtral", **SIZES, **SHARED, "num_local_experts": 2},
    ],
    ids=lambda config: str(config["model_type"]),
)
def test_what_the_fast_path_does_not_know_is_written_by_the_models_own_forward(
    config: dict[str, Any], bpe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short windows, frequencies that depend on the length, other families: the same rows, dropped as they end."""
    opened, policy = decoders(monkeypatch), build_policy(config, bpe, seed=0)
    samples = sample(policy, PROMPTS, MIXED, SEEDS)
    assert opened == [ForwardDecoder]
    assert_rows_are_plain(policy, samples)


def test_an_adapter_is_heard_before_and_after_it_is_merged(
    llama: Policy, clone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attached, the model's own forward writes; merged, the fast path: the same text."""
    policy, opened = clone(llama), decoders(monkeypatch)
    attach(policy, AdapterSettings(kind="lora", rank=2, alpha=8.0), seed=0)
    with torch.no_grad():
        for name, weight in policy.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    attached = sample(policy, PROMPTS, MIXED, SEEDS)
    merged = sample(merge(policy), PROMPTS, MIXED, SEEDS)
    assert opened == [ForwardDecoder, CachedDecoder]
    assert merged.responses() == attached.responses() != sample(llama, PROMPTS, MIXED, SEEDS).responses()
    torch.testing.assert_close(merged.logprobs, attached.logprobs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_rows_of_an_encoder_decoder_end_one_by_one(name: str, request: pytest.FixtureRequest) -> None:
    """Each is what it is alone, though the others leave the batch before it or after."""
    policy: Policy = request.getfixturevalue(name)
    together = sample(policy, PROMPTS, MIXED, SEEDS)
    for row, tokens in enumerate(together.responses()):
        alone = sample(policy, PROMPTS[row : row + 1], MIXED[row : row + 1], SEEDS[row : row + 1])
        assert alone.responses() == [tokens]
        expected = alone.logprobs[0]
        torch.testing.assert_close(together.logprobs[row, : len(expected)], expected, atol=1e-5, rtol=0)


def three_logits(decoder: Decoder) -> torch.Tensor:
    """Those after each prompt, and after two tokens more that are the same whatever the model says."""
    with torch.no_grad():
        return torch.stack([decoder.first().clone(), *(decoder.next(torch.arange(6) + 3).clone() for _ in range(2))])


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_bfloat16_rounds_no_more_than_in_the_models_own_forward(
    name: str, autocast: bool, clone: Any, request: pytest.FixtureRequest
) -> None:
    """Under autocast or in weights of bfloat16, the mean distance to float32's logits is at most 1.2 times its own."""
    policy = clone(request.getfixturevalue(name))
    exact = three_logits(sampler.open_decoder(policy, PROMPTS, 8))
    if not autocast:
        policy.model.to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        fast = sampler.open_decoder(policy, PROMPTS, 8)
        assert isinstance(fast, CachedDecoder)
        ours = (three_logits(fast) - exact).abs().mean()
        own = ForwardDecoder(policy.model, prompt_inputs(policy.model, PROMPTS, policy.device))
        assert 0 < ours < 1.2 * (three_logits(own) - exact).abs().mean()
