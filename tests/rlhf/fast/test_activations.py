"""GELU in blocks: the values and slopes of the formula, for every size, layout and type."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn.functional import gelu
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf.fast import activations
from rlhf.fast.activations import Gelu, fuse_activations


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than two numbers make several blocks."""
    monkeypatch.setattr(activations, "BLOCK", 2)


def value_and_gradient(function: Any, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """At some states, with a gradient that tells them apart."""
    leaf = states.clone().requires_grad_()
    values = function(leaf)
    weights = torch.linspace(-1, 1, values.numel(), dtype=values.dtype).view_as(values)
    return values.detach(), torch.autograd.grad(values, leaf, weights)[0]


@pytest.mark.parametrize("size", [1, 7, 8, 20])
def test_values_and_gradients_are_those_of_the_formula(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of 8, from far below 0 to far above it, against double precision; without gradients, the same."""
    monkeypatch.setattr(activations, "BLOCK", 8)
    states = torch.linspace(-30, 40, 3 * size).view(3, size) / 4
    value, gradient = value_and_gradient(Gelu(), states)
    expected, slope = value_and_gradient(lambda x: gelu(x, approximate="tanh"), states.double())
    torch.testing.assert_close(value.double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient.double(), slope, atol=1e-5, rtol=0)
    torch.testing.assert_close(Gelu()(states), value, atol=1e-6, rtol=1e-6)


def test_known_values() -> None:
    """0 gives 0 with slope ½; 1 gives ½·(1 + tanh(0.8412)); what is large stays as it is, its negative is 0."""
    value, gradient = value_and_gradient(Gelu(), torch.tensor([0.0, 1.0, 1e4, -1e4]))
    torch.testing.assert_close(value, torch.tensor([0.0, 0.841192, 1e4, 0.0]), atol=1e-6, rtol=1e-6)
    weights = torch.tensor([-1.0, -1 / 3, 1 / 3, 1.0])
    torch.testing.assert_close(gradient / weights, torch.tensor([0.5, 1.082964, 1.0, 0.0]), atol=1e-5, rtol=0)


def test_neither_layout_nor_the_states_themselves_matter_or_change() -> None:
    """A transposed view gives the transposed values, and what was read is left as it was."""
    states = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    before = states.clone()
    for ours, theirs in zip(
        value_and_gradient(Gelu(), states.t()), value_and_gradient(gelu_tanh, states.t()), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert torch.equal(states, before)


def gelu_tanh(states: torch.Tensor) -> torch.Tensor:
    """Torch's own."""
    return gelu(states, approximate="tanh")


def test_other_types_and_few_numbers_are_left_to_torch() -> None:
    """In bfloat16, as under autocast, in double precision, and of a single block the result is torch's to the bit."""
    for dtype, size in ((torch.bfloat16, 50), (torch.float64, 50), (torch.float32, 2)):
        states = torch.linspace(-3, 3, size, dtype=dtype)
        for ours, theirs in zip(value_and_gradient(Gelu(), states), value_and_gradient(gelu_tanh, states), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh"])
def test_a_model_computes_what_it_did(name: str) -> None:
    """GPT-2's own GELU and the one that others name: logits and gradients within 1e-5."""
    fields = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 20}
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", activation_function=name, **fields)).eval()
    fused = copy.deepcopy(plain)
    fuse_activations(fused)
    assert sum(isinstance(module, Gelu) for module in fused.modules()) == 2
    ids = torch.arange(12).view(2, 6)
    ours, theirs = (model(ids).logits for model in (fused, plain))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    for logits in (ours, theirs):
        (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    for ours, theirs in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)
