"""DPO as a run: what a step learns, the optimum that it reaches, what it measures, keeps and goes on from."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from rlhf.adapters import attach
from rlhf.batches import make_batch
from rlhf.dpo.losses import preference_losses
from rlhf.dpo.trainer import DpoTrainer
from rlhf.finite import NotFiniteError
from rlhf.heads import response_logprobs
from rlhf.models import Policy
from rlhf.settings.adapters import AdapterSettings
from tests.rlhf.dpo.conftest import LIKED

ONE = [("a", "b", "c")]


def vector(policy: Policy) -> torch.Tensor:
    """All weights as one vector."""
    return parameters_to_vector(policy.model.parameters()).detach()


def shake(policy: Policy | None) -> None:
    """Moves every weight by a little noise."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=draw))


def one_by_one(trainer: DpoTrainer, policy: Policy | None) -> list[torch.Tensor]:
    """log π of each completion as a batch of its own: the sum of its tokens' logprobs."""
    examples = trainer.train_pairs.examples
    return [response_logprobs(policy.model, make_batch([prompt], [response])).sum() for prompt, response in examples]


@pytest.mark.parametrize("micro", [None, 2, 3, 6])
def test_a_step_has_the_gradient_of_a_naive_loop(dpo_of: Callable[..., DpoTrainer], micro: int | None) -> None:
    """The mean over pairs, read one completion at a time; however the step is cut into forwards."""
    trainer = dpo_of(micro_batch_size=micro, dpo={"beta": 0.4, "label_smoothing": 0.1}, max_grad_norm=1e9)
    shake(trainer.policy)
    rows = [0, 1, 3]
    pairs = [pair for row in rows for pair in trainer.train_pairs.pairs[row]]
    with torch.no_grad():
        theirs = one_by_one(trainer, trainer.reference)
    ours = one_by_one(trainer, trainer.policy)
    ratios = [(ours[w] - theirs[w]) - (ours[x] - theirs[x]) for w, x in pairs]
    loss = preference_losses(torch.stack(ratios), 0.4, "sigmoid", 0.1).mean()
    weights = list(trainer.policy.model.parameters())
    expected = torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, weights)])
    before = vector(trainer.policy)
    trainer.optimizer = torch.optim.SGD(weights, lr=1.0)
    figures = trainer.step(rows)
    torch.testing.assert_close(before - vector(trainer.policy), expected, atol=1e-5, rtol=1e-4)
    assert figures["loss"] == pytest.approx(loss.item(), abs=1e-5)
    assert figures["margin"] == pytest.approx(0.4 * torch.stack(ratios).mean().item(), abs=1e-5)
    assert figures["accuracy"] == pytest.approx(sum(ratio.item() > 0 for ratio in ratios) / len(ratios))
    assert figures["grad_norm"] == pytest.approx(expected.norm().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("fields", "rows", "optimum"),
    [
        ({"beta": 0.5, "loss": "ipo"}, ONE, 1.0),  # 1 / (2β)
        ({"beta": 0.5, "loss": "ipo", "label_smoothing": 0.25}, ONE, 0.5),  # (1 − 2ε) / (2β)
        ({"beta": 0.5, "label_smoothing": 0.25}, ONE, 2 * math.log(3.0)),  # log((1 − ε)/ε) / β
        ({"beta": 0.5}, [("a", "b", "c")] * 3 + [("a", "c", "b")], 2 * math.log(3.0)),  # three of four prefer b
    ],
)
def test_training_reaches_the_known_optimum(
    dpo_of: Callable[..., DpoTrainer], fields: dict[str, object], rows: list[tuple[str, str, str]], optimum: float
) -> None:
    """h, the chosen completion's log-ratio over the other's, ends where the loss is least."""
    trainer = dpo_of(
        rows=rows, dpo={**fields, "sample_every": 200}, iterations=120, minibatches=1, prompts_per_iteration=1
    )
    for _ in trainer.train():
        pass
    with torch.no_grad():
        ours, theirs = one_by_one(trainer, trainer.policy), one_by_one(trainer, trainer.reference)
    assert (ours[0] - theirs[0] - ours[1] + theirs[1]).item() == pytest.approx(optimum, abs=0.02)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_it_learns_what_is_liked(dpo_of: Callable[..., DpoTrainer], loss: str) -> None:
    """From log 2 (or (1/2β)²) and no margin to pairs told right, and completions with more of the liked word."""
    dpo = {"beta": 0.1, "loss": loss, "sample_every": 8}
    trainer = dpo_of(iterations=16, dpo=dpo, minibatches=1, prompts_per_iteration=64)
    start = trainer.measure()
    assert start["eval_loss"] == pytest.approx(math.log(2.0) if loss == "sigmoid" else 25.0, abs=1e-4)
    assert start["eval_margin"] == pytest.approx(0.0, abs=1e-5)
    assert start["kl"] == pytest.approx(0.0, abs=1e-5)
    rows = list(trainer.train())
    assert rows[-1]["accuracy"] == 1.0
    assert rows[-1]["eval_margin"] > 0.3
    assert rows[-1]["kl"] > 0.1
    assert rows[-1]["reward_mean"] > start["reward_mean"] + 0.3
    assert [step for step, row in enumerate(rows, 1) if "kl" in row] == [1, 8, 16]
    trainer.check_learnt()


def test_the_references_logprobs_are_computed_once(
    dpo_of: Callable[..., DpoTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them before the first step, and right; later the reference is read for sampled completions alone."""
    trainer = dpo_of(iterations=6, dpo={"sample_every": 100})
    original, read = type(trainer.networks).ref_logprobs, []

    def counted(networks: object, batch: object) -> torch.Tensor:
        read.append(trainer.iteration)
        return original(networks, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(type(trainer.networks), "ref_logprobs", counted)
    list(trainer.train())
    assert [each for each in read if each] == [1, 6]  # the measurements after the first and the last iteration
    with torch.no_grad():
        expected = torch.stack(one_by_one(trainer, trainer.reference))
    for kept in trainer.reference_logprobs():
        torch.testing.assert_close(kept, expected, atol=1e-5, rtol=1e-5)


def test_with_an_adapter_the_reference_is_the_policy_without_it(
    dpo_of: Callable[..., DpoTrainer], speller: Policy, clone: Callable[[Policy], Policy]
) -> None:
    """One copy: only the adapter learns, and the logprobs kept are the start's."""
    policy = attach(clone(speller), AdapterSettings(rank=4), seed=0)
    frozen = [weight for weight in policy.model.parameters() if not weight.requires_grad]
    before = [weight.clone() for weight in frozen]
    trainer = dpo_of(policy, own_reference=False, iterations=8, dpo={"beta": 0.3})
    rows = list(trainer.train())
    assert rows[-1]["eval_loss"] < rows[3]["eval_loss"] < math.log(2.0)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(frozen, before, strict=True))
    with torch.no_grad():
        expected = torch.stack(one_by_one(trainer, speller))
    torch.testing.assert_close(trainer.reference_logprobs()[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("adapted", [False, True])
def test_a_resumed_run_equals_one_that_never_stopped(
    dpo_of: Callable[..., DpoTrainer],
    speller: Policy,
    clone: Callable[[Policy], Policy],
    tmp_path: Path,
    adapted: bool,
) -> None:
    """Five iterations at once, or two, a file, and three by another trainer: the same figures and weights."""

    def build() -> DpoTrainer:
        policy = attach(clone(speller), AdapterSettings(rank=4), seed=0) if adapted else clone(speller)
        fields = {"iterations": 5, "prompts_per_iteration": 2, "dpo": {"sample_every": 2}, "kl": {"ceiling": 50.0}}
        return dpo_of(policy, own_reference=not adapted, **fields)

    whole, first, second = build(), build(), build()
    rows, steps = list(whole.train()), first.train()
    before = [next(steps) for _ in range(2)]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert before + list(second.train()) == rows
    assert torch.equal(vector(second.policy), vector(whole.policy))
    assert second.kept is not None
    assert whole.kept is not None
    assert second.kept.iteration == whole.kept.iteration == 5


def test_past_the_kl_ceiling_the_policy_goes_back_within(dpo_of: Callable[..., DpoTrainer]) -> None:
    """Every second iteration is measured; the run ends at the first past the ceiling, with the last one within."""
    trainer = dpo_of(
        iterations=40,
        prompts_per_iteration=64,
        learning_rate=5e-3,
        dpo={"beta": 0.01, "sample_every": 2},
        kl={"ceiling": 1.0},
        minibatches=1,
    )
    weights = {0: vector(trainer.policy)}
    rows = []
    for row in trainer.train():
        rows.append(row)
        weights[len(rows)] = vector(trainer.policy)
    measured = {step: row["kl"] for step, row in enumerate(rows, 1) if "kl" in row}
    assert len(rows) < 40
    assert [kl > 1.0 for kl in measured.values()] == [False] * (len(measured) - 1) + [True]
    assert trainer.kept is not None
    *_, within, _ = measured
    assert trainer.kept.iteration == within > 1
    assert torch.equal(vector(trainer.policy), weights[within])
    assert trainer.stopped is not None
    assert trainer.stopped.endswith("or raise policy.dpo.beta")


def test_a_reference_that_is_not_the_start_is_noticed(dpo_of: Callable[..., DpoTrainer]) -> None:
    """Before anything has moved."""
    trainer = dpo_of()
    shake(trainer.reference)
    before = vector(trainer.policy)
    with pytest.raises(RuntimeError, match=r"before the first update the KL .* expected 0"):
        next(iter(trainer.train()))
    assert torch.equal(vector(trainer.policy), before)


def test_a_run_that_moved_nothing_is_an_error(dpo_of: Callable[..., DpoTrainer]) -> None:
    """As where every step is rounded away; the error says what to look at."""
    trainer = dpo_of()
    trainer.optimizer.step = lambda: None  # type: ignore[method-assign, assignment]
    list(trainer.train())
    with pytest.raises(ValueError, match=r"dpo changed no weight of the policy; is policy.learning_rate too small"):
        trainer.check_learnt()


def test_what_is_not_finite_is_not_stepped_on(dpo_of: Callable[..., DpoTrainer]) -> None:
    """The step is named and leaves weights and gradients alone; as often as params allow it is skipped and kept."""
    trainer = dpo_of(max_bad_batches=1, prompts_per_iteration=2)
    kept: list[dict[str, Any]] = []
    trainer.bad.keep = lambda batch: kept.append(batch) or "here"  # type: ignore[arg-type]
    nothing = torch.full((len(trainer.train_pairs.examples),), math.nan)
    trainer.ref_logprobs = (nothing, nothing)
    before = vector(trainer.policy)
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        trainer.step([0])
    with pytest.raises(
        ValueError, match=r"the loss is nan; batches of policy .*: 2 .* policy.max_bad_batches allows 1"
    ):
        trainer.learn([0, 1])
    assert torch.equal(vector(trainer.policy), before)
    assert all(weight.grad is None for weight in trainer.policy.model.parameters())
    assert kept[0]["pairs"][0] == {"prompt": "a <sep>", "response": "a b", "rejected": "c"}
    assert len(kept[0]["pairs"]) == 3


def test_one_bad_step_of_an_iteration_leaves_the_others(
    dpo_of: Callable[..., DpoTrainer], poison: Callable[[torch.nn.Module, int], None]
) -> None:
    """Of two steps the second is NaN: the figures are the first's, with the count beside them."""
    trainer, alone = dpo_of(), dpo_of()
    for each in (trainer, alone):
        each.reference_logprobs()
    poison(trainer.policy.model.get_input_embeddings(), 2)
    trainer.decay()
    assert trainer.learn([0, 1]) == {"skipped_batches": 1.0, **alone.step([0])}
    assert torch.equal(vector(trainer.policy), vector(alone.policy))


def test_a_measurement_that_is_not_finite_is_skipped(dpo_of: Callable[..., DpoTrainer]) -> None:
    """A score that is no number says nothing of the policy, which goes on learning from pairs."""
    trainer = dpo_of(iterations=2)
    trainer.scorer = type("Mute", (), {"score": lambda self, prompts, texts: torch.full((len(texts),), math.nan)})()
    rows = list(trainer.train())
    assert [row["skipped_batches"] for row in rows] == [2.0, 3.0]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert "reward_mean" not in rows[-1]
    trainer.check_learnt()


def test_every_prompt_comes_once_before_any_comes_again(dpo_of: Callable[..., DpoTrainer]) -> None:
    """Seven pairs of five prompts; an iteration takes all pairs of its share."""
    trainer = dpo_of(iterations=5, prompts_per_iteration=1)
    seen: list[int] = []
    original = trainer.step
    trainer.step = lambda rows: seen.extend(rows) or original(rows)  # type: ignore[method-assign]
    list(trainer.train())
    assert sorted(seen) == list(range(len({prompt for prompt, _, _ in LIKED})))
