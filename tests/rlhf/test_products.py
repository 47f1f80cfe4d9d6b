"""Products by oneDNN: the same logprobs, gradients and samples as by torch's own, wherever it is preferred."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rlhf import heads, products
from rlhf.batches import make_batch, response_states
from rlhf.generation import projection, sample
from rlhf.heads import TokenLoss, response_logprobs, token_loss
from rlhf.logprobs import token_statistics
from rlhf.models import Policy, build_policy
from rlhf.records import Sampling

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")

PROMPTS, RESPONSES = [[3, 4, 5], [6], [7, 3, 3, 5, 6], [5, 7]], [[9, 3], [4, 5, 2, 1, 8, 8], [8], [1, 7, 7]]
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "llama": {"model_type": "llama", "num_key_value_heads": 1, "max_position_embeddings": 64, **SIZES},
    "gpt_neox": {"model_type": "gpt_neox", "max_position_embeddings": 64, **SIZES},
    "t5": {"model_type": "t5", "d_model": 16, "d_ff": 32, "num_layers": 2, "num_heads": 2, "d_kv": 8},
    "bart": {
        **{"model_type": "bart", "d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "encoder_layers": 2},
        **{"decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2},
    },
}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """oneDNN is preferred; the shapes of the weights that it multiplies with."""
    shapes: list[tuple[int, ...]] = []

    def spy(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        shapes.append(tuple(weight.shape))
        return by_onednn(x, weight, bias)

    by_onednn = products.by_onednn
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)
    for module in (products, projection):
        monkeypatch.setattr(module, "by_onednn", spy)
    monkeypatch.setattr(products, "ROWS", 4)  # of the batches here, which are small
    return shapes


def noisy(config: dict[str, Any], tokenizer: Any) -> Policy:
    """A model whose biases are not 0."""
    built = build_policy(config, tokenizer, seed=0)
    with torch.no_grad():
        for weight in built.model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return built


@pytest.fixture(params=sorted(MODELS))
def both(request: pytest.FixtureRequest, bpe: Any, counted: list[tuple[int, ...]]) -> tuple[Policy, Policy]:
    """The same model twice: as it is where oneDNN is preferred, and with nothing but transformers' layers."""
    ours = noisy(MODELS[request.param], bpe)
    theirs = copy.deepcopy(ours)
    for layer in theirs.model.modules():
        if type(layer) in (nn.Linear, Conv1D):
            del layer.forward
    return ours, theirs


def gradients(model: nn.Module) -> Iterator[torch.Tensor]:
    """Those of all weights, in order, which are cleared."""
    for weight in model.parameters():
        assert weight.grad is not None
        assert weight.grad.shape == weight.shape
        yield weight.grad
    model.zero_grad(set_to_none=True)


def by_likelihood(model: nn.Module) -> torch.Tensor:
    logprobs = response_logprobs(model, make_batch(PROMPTS, RESPONSES))
    (logprobs * torch.linspace(-1, 1, logprobs.numel()).view_as(logprobs)).sum().backward()
    return logprobs.detach()


def by_tokens(model: nn.Module) -> torch.Tensor:
    batch = make_batch(PROMPTS, RESPONSES)
    states = response_states(model, batch)

    def loss(logits, tokens):
        found = token_statistics(logits, tokens.ids)
        return TokenLoss(sum(found).sum(), found._asdict())

    total, figures = token_loss(model, states, batch, loss)
    total.backward()
    return figures["logprobs"]


@pytest.mark.parametrize("chunk", [2**23, 1_000], ids=["at once", "in chunks"])
@pytest.mark.parametrize("learn", [by_likelihood, by_tokens])
def test_logprobs_and_gradients_are_those_of_the_plain_layers(
    both: tuple[Policy, Policy],
    counted: list[tuple[int, ...]],
    learn: Callable[[nn.Module], torch.Tensor],
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a ragged batch, within 1e-5; T5's weights make larger numbers. All of ours are by oneDNN."""
    ours, theirs = both
    monkeypatch.setattr(heads, "CHUNK_LOGITS", chunk)
    found = learn(ours.model)
    layers = [layer for layer in ours.model.modules() if type(layer) in (nn.Linear, Conv1D)]
    assert len(counted) >= 3 * len(layers)
    assert all("forward" in vars(layer) for layer in layers)
    monkeypatch.setattr(products, "prefers_onednn", lambda: False)
    torch.testing.assert_close(found, learn(theirs.model), atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients(ours.model), gradients(theirs.model), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("copied", [0, projection.COPIED_WEIGHTS], ids=["in place", "copied"])
def test_samples_are_those_of_the_plain_products(
    name: str,
    copied: int,
    counted: list[tuple[int, ...]],
    bpe: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same tokens for the same seeds; of weights too many to be copied the head's alone are packed."""
    policy = noisy(MODELS[name], bpe)
    monkeypatch.setattr(projection, "COPIED_WEIGHTS", copied)
    draw = partial(sample, policy, PROMPTS, [Sampling(min_new_tokens=12, max_new_tokens=12)] * 4, [1, 2, 3, 4])
    found = draw()
    products_a_step = 4 * policy.model.config.num_hidden_layers + 1 if copied else 1
    assert len(counted) == 12 * products_a_step
    monkeypatch.setattr(products, "prefers_onednn", lambda: False)
    expected = draw()
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=0)


def test_a_product_and_its_gradients_by_another_road() -> None:
    """Also where the weight is a transposed view, as GPT-2's is, and the states have gaps."""
    draw = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=draw) for shape in ((2, 5, 14), (7, 3), (3,)))

    def found_by(linear: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        leaves = [leaf.clone().requires_grad_() for leaf in (x, weight, bias)]
        result = linear(leaves[0][..., ::2], leaves[1].t(), leaves[2])
        (result**2).sum().backward()
        return [result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    found, expected = found_by(products.Product.apply), found_by(nn.functional.linear)
    assert len(found) == 4
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 4, 11])
@pytest.mark.parametrize("widths", [(3, 5), (5, 3)])
def test_what_is_left_of_the_rows_counts(rows: int, widths: tuple[int, int], counted: list[tuple[int, ...]]) -> None:
    """gᵀ·x over fewer rows than oneDNN gets, as many, and more: to it go multiples of four alone."""
    slopes, x = (torch.randn(rows, width) for width in widths)
    torch.testing.assert_close(products.weight_gradient(slopes, x), slopes.t() @ x)
    assert [shape[1] for shape in counted] == [rows // 4 * 4] * (rows >= 4)


def test_a_frozen_weight_gets_no_gradient(counted: list[tuple[int, ...]]) -> None:
    """Nor is one computed: the product with the slopes alone is."""
    layer = nn.Linear(3, 5).requires_grad_(False)
    products.speed_up_products(layer)
    x = torch.randn(2, 4, 3, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(2, 4, 3))
    assert counted == [(5, 3), (3, 5)]


def test_other_types_are_left_to_torch(counted: list[tuple[int, ...]]) -> None:
    """float64, and what autocast would round."""
    layer = nn.Linear(3, 5)
    plain = copy.deepcopy(layer)
    products.speed_up_products(layer)
    x = torch.randn(4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer.double()(x.double()), plain.double()(x.double()))
    assert not counted


def test_a_copy_multiplies_with_its_own_weights(counted: list[tuple[int, ...]]) -> None:
    layer = nn.Linear(3, 5)
    products.speed_up_products(layer)
    twin = copy.deepcopy(layer)
    nn.init.zeros_(twin.weight)
    x = torch.randn(4, 3)
    torch.testing.assert_close(twin(x), twin.bias.expand(4, 5))
    assert layer(x).std() > 0
    assert len(counted) == 2


@pytest.mark.parametrize(
    ("onednn", "usual", "preferred"),
    [([1.0] * 7, [2.0] * 7, True), ([1.0, *[7.0] * 6], [1.3] * 7, True), ([1.0] * 7, [1.2, *[7.0] * 6], False)],
)
def test_the_best_of_several_calls_decides(
    onednn: list[float], usual: list[float], preferred: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter faster is enough; the first calls, and those that something else held up, do not count."""
    seconds = iter([9.0, 9.0, *(each for pair in zip(onednn, usual, strict=True) for each in pair)])
    monkeypatch.setattr(products, "_seconds", lambda _: next(seconds))
    products.prefers_onednn.cache_clear()
    try:
        assert products.prefers_onednn() is preferred
    finally:
        products.prefers_onednn.cache_clear()


@pytest.mark.skipif(sys.platform == "win32", reason="a thread's time is too coarse there")
def test_time_that_others_take_does_not_count() -> None:
    """Four fifths of this call's time are slept away."""

    def work() -> None:
        until = time.thread_time() + 0.05
        while time.thread_time() < until:
            pass
        time.sleep(0.2)

    assert 0.05 <= products._seconds(work) < 0.2


def test_models_are_left_alone_where_it_is_not_preferred(bpe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "prefers_onednn", lambda: False)
    policy = build_policy(MODELS["gpt2"], bpe, seed=0)
    assert not any("forward" in vars(layer) for layer in policy.model.modules() if type(layer) in (nn.Linear, Conv1D))
