"""The optimizer's schedule, clipping and decay by hand, and the order in which rows are drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rlhf.finite import NotFiniteError
from rlhf.optim import Optimizer, cosine_with_warmup, shuffled_batches
from rlhf.settings.optim import OptimSettings


def test_the_schedule_by_hand() -> None:
    """Warm-up of 4 in 12 steps: ¼ … 1, then .1 + .9·½(1 + cos πp) at p = ¼, ½, ¾, 1, and the floor ever after."""
    assert [cosine_with_warmup(step, 4, 12) for step in (1, 2, 4)] == [0.25, 0.5, 1.0]
    shares = [cosine_with_warmup(step, 4, 12) for step in (6, 8, 10, 12, 99)]
    root = math.sqrt(0.5)
    assert shares == pytest.approx([0.1 + 0.45 * (1 + root), 0.55, 0.1 + 0.45 * (1 - root), 0.1, 0.1])


def test_a_warm_up_of_every_step_never_decays() -> None:
    """With no step left after it there is nothing to divide by."""
    assert [cosine_with_warmup(step, 2, 2) for step in (1, 2)] == [0.5, 1.0]


def optimizer(model: nn.Module, **settings: float) -> Optimizer:
    fields = {"steps": 4, "batch_size": 1, "learning_rate": 0.1, "warmup_share": 0.5, "weight_decay": 0.0}
    return Optimizer(model, OptimSettings.model_validate(fields | settings))


def test_the_reported_rate_is_that_of_the_step_taken() -> None:
    """Two steps of warm-up in four at a peak of .1: .05, .1, .055, .01; Adam's first step is of just that size."""
    model = nn.Linear(1, 1, bias=False)
    start = model.weight.item()
    ours, rates = optimizer(model), []
    for step in range(4):
        model.weight.grad = torch.ones_like(model.weight)
        ours.step(1.0)
        rates.append(ours.learning_rate)
        if step == 0:
            assert start - model.weight.item() == pytest.approx(0.05, rel=1e-4)
    assert rates == pytest.approx([0.05, 0.1, 0.055, 0.01])


def test_the_norm_before_clipping_is_returned_and_gradients_are_cleared() -> None:
    """Gradients (3, 4) have norm 5, though only 1 is let through."""
    model = nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    ours = optimizer(model, max_grad_norm=1.0)
    assert ours.step(0.5) == pytest.approx({"loss": 0.5, "grad_norm": 5.0, "learning_rate": 0.05})
    assert model.weight.grad is None


def test_clipping_bounds_the_gradient_that_adam_sees() -> None:
    """A gradient a million times larger moves the weights as one of norm 1 does."""
    moved = []
    for scale in (1.0, 1e6):
        torch.manual_seed(0)
        model = nn.Linear(2, 1, bias=False)
        start, ours = model.weight.detach().clone(), optimizer(model)
        for gradient in ([[0.6, 0.8]], [[0.8 * scale, -0.6 * scale]]):
            model.weight.grad = torch.tensor(gradient)
            ours.step(1.0)
        moved.append(model.weight.detach() - start)
    torch.testing.assert_close(moved[0], moved[1], atol=1e-6, rtol=1e-5)


def test_matrices_decay_and_vectors_do_not() -> None:
    """With no gradient AdamW shrinks a weight by rate times decay, here 1 - .05·.2, and leaves the bias alone."""
    model = nn.Linear(2, 2)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer(model, weight_decay=0.2).step(1.0)
    torch.testing.assert_close(model.weight.detach(), weight * 0.99)
    assert torch.equal(model.bias.detach(), bias)


def test_frozen_parameters_are_left_out() -> None:
    """What needs no gradient neither moves nor decays."""
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    weight = model.weight.detach().clone()
    model.bias.grad = torch.ones_like(model.bias)
    optimizer(model, weight_decay=0.5).step(1.0)
    assert torch.equal(model.weight, weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["loss", "gradient's norm"])
def test_what_is_not_finite_is_not_stepped_on(value: float, place: str) -> None:
    """It is named before it can spoil the weights; no gradient is left, and the next step has the rate of its place."""
    model = nn.Linear(1, 1, bias=False)
    before, ours = model.weight.detach().clone(), optimizer(model)
    model.weight.grad = torch.tensor([[value if place != "loss" else 1.0]])
    with pytest.raises(NotFiniteError, match=rf"the {place} is (nan|inf)"):
        ours.step(value if place == "loss" else 1.0)
    assert torch.equal(model.weight.detach(), before)
    assert model.weight.grad is None
    model.weight.grad = torch.ones(1, 1)
    assert ours.step(1.0)["learning_rate"] == pytest.approx(0.1)
    assert before.item() - model.weight.item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize(("rows", "size"), [(10, 3), (12, 4), (5, 5), (7, 1)])
def test_every_row_comes_once_an_epoch(rows: int, size: int) -> None:
    """Cut into runs of `rows`, the stream of batches is one permutation after another."""
    batches = list(shuffled_batches(rows, size, 3 * rows, torch.Generator().manual_seed(0)))
    assert {len(batch) for batch in batches} == {size}
    stream = [row for batch in batches for row in batch]
    epochs = [stream[start : start + rows] for start in range(0, len(stream), rows)]
    assert len(epochs) == 3 * size
    assert all(sorted(epoch) == list(range(rows)) for epoch in epochs)
    assert rows < 3 or epochs[0] != epochs[1]


def test_fewer_rows_than_a_batch_give_all_of_them_each_time() -> None:
    """Three rows in batches of eight: all three, at every step."""
    batches = list(shuffled_batches(3, 8, 4, torch.Generator().manual_seed(0)))
    assert [sorted(batch) for batch in batches] == [[0, 1, 2]] * 4


def test_the_order_is_a_function_of_the_generator() -> None:
    """The same seed draws the same batches, another one others."""
    first, again, other = (list(shuffled_batches(20, 6, 5, torch.Generator().manual_seed(seed))) for seed in (1, 1, 2))
    assert first == again != other
