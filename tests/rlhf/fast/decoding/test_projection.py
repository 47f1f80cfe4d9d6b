"""Products of few rows: the linear layer's own, whichever way its weights are laid out."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from rlhf.fast.decoding import projection
from rlhf.fast.decoding.projection import PACKED_ROWS, Part, Projection
from rlhf.generation import sample
from rlhf.records import Sampling
from tests.rlhf.fast.decoding.test_cached import PROMPTS, SEEDS, random_policy

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN")


def parts(*widths: int, bias: bool = True) -> list[Part]:
    """Layers of 6 inputs."""
    draw = torch.Generator().manual_seed(0)
    return [
        Part(torch.randn(6, width, generator=draw), torch.randn(width, generator=draw) if bias else None)
        for width in widths
    ]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("widths", [(5,), (5, 3)], ids=["one layer", "side by side"])
@pytest.mark.parametrize("copied", [0, projection.COPIED_WEIGHTS], ids=["in place", "copied"])
@pytest.mark.parametrize("rows", [1, PACKED_ROWS, 9])
def test_it_is_the_layers_product(
    rows: int, copied: int, widths: tuple[int, ...], bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x·W + b of each layer, of as many rows as were announced or of fewer that are left."""
    monkeypatch.setattr(projection, "COPIED_WEIGHTS", copied)
    layers, states = parts(*widths, bias=bias), torch.randn(rows, 6, generator=torch.Generator().manual_seed(1))
    project = Projection(layers, torch.float32, rows, pack=True)
    for left in (rows, 1):
        columns = [states[:left] @ each.weight + (0.0 if each.bias is None else each.bias) for each in layers]
        torch.testing.assert_close(project(states[:left]), torch.cat(columns, dim=1), atol=1e-5, rtol=1e-5)


@needs_onednn
def test_weights_are_packed_where_several_rows_meet_a_large_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """And it was asked for, of one layer in float32: packing takes a copy of them."""
    monkeypatch.setattr(projection, "COPIED_WEIGHTS", 0)
    usual = partial(Projection, parts(5), torch.float32, PACKED_ROWS, True)
    assert usual().packed is not None
    for other in (
        Projection(parts(5), torch.float32, PACKED_ROWS),
        Projection(parts(5), torch.float32, PACKED_ROWS - 1, True),
        Projection(parts(5, 3), torch.float32, PACKED_ROWS, True),
        Projection(parts(5), torch.bfloat16, PACKED_ROWS, True),
    ):
        assert other.packed is None
    monkeypatch.setattr(projection, "COPIED_WEIGHTS", 30)
    assert usual().packed is None


@pytest.mark.parametrize("family", ["gpt2", "llama, biases, one key head"])
def test_samples_do_not_depend_on_where_weights_lie(family: str, bpe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same tokens for the same seeds with the head packed and every other matrix in place."""
    policy = random_policy(family, bpe)
    draw = partial(sample, policy, PROMPTS, [Sampling(min_new_tokens=12, max_new_tokens=12)] * 6, SEEDS)
    expected = draw()
    monkeypatch.setattr(projection, "COPIED_WEIGHTS", 0)
    found = draw()
    assert torch.equal(found.tokens, expected.tokens)
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=0)
