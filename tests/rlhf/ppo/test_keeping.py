"""What a run keeps: the policy that it goes back to, and the checkpoint that it goes on from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from rlhf.models import Policy
from rlhf.policy.trainer import Check
from rlhf.ppo.trainer import PpoTrainer


def vector(policy: Policy | None) -> torch.Tensor:
    """All weights as one vector."""
    return parameters_to_vector(policy.model.parameters()).detach()


def test_past_the_kl_ceiling_the_policy_goes_back_within(trainer_of: Callable[..., PpoTrainer]) -> None:
    """A high rate drives the KL past half a nat soon; what is kept was last measured within, and the reason is told."""
    trainer = trainer_of(
        iterations=30, learning_rate=3e-2, update_kl_ceiling=None, kl={"coefficient": 0.0, "ceiling": 0.5}
    )
    ends = [vector(trainer.policy)]
    rows = []
    for row in trainer.train():
        rows.append(row["kl"])
        ends.append(vector(trainer.policy))
    assert len(rows) < 30
    assert max(rows) <= 0.5
    # The last update led past the ceiling, so the policy is the one before it.
    assert torch.equal(vector(trainer.policy), ends[-2])
    assert not torch.equal(ends[-1], ends[-2])
    assert trainer.stopped is not None
    assert trainer.stopped.startswith("the KL to the reference is ")
    assert trainer.kept is not None
    assert trainer.kept.iteration == len(rows) - 1


class Count:
    """A watch of our own: best at some iterations, stops at one, and remembers what it was shown."""

    def __init__(self, best: set[int], stop: int | None = None) -> None:
        self.best, self.stop = best, stop
        self.shown: dict[int, torch.Tensor] = {}

    def check(self, policy: Policy, log_ratio: object, iteration: int) -> Check:
        self.shown[iteration] = vector(policy)
        stop = "seen enough" if iteration == self.stop else None
        return Check({"watched": float(iteration)}, iteration in self.best, [f"odd at {iteration}"], stop)

    def state_dict(self) -> dict[str, object]:
        return {"shown": self.shown}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.shown = state["shown"]  # type: ignore[assignment]


def test_the_watch_stops_the_run_and_the_best_policy_is_kept(trainer_of: Callable[..., PpoTrainer]) -> None:
    """It is asked before the first iteration and after each; at its word its best policy is back, bit for bit."""
    trainer = trainer_of(iterations=6, learning_rate=1e-2)
    trainer.watch = watch = Count(best={0, 2}, stop=4)
    rows, warnings = [], []
    for row in trainer.train():
        rows.append(row)
        warnings += trainer.warnings
    assert warnings == [f"odd at {iteration}" for iteration in (1, 2, 3, 4)]
    assert [row["watched"] for row in rows] == [1.0, 2.0, 3.0, 4.0]
    assert sorted(watch.shown) == [0, 1, 2, 3, 4]
    assert torch.equal(vector(trainer.policy), watch.shown[2])
    assert (trainer.stopped, trainer.kept.iteration) == ("seen enough", 2)


def test_past_the_ceiling_the_watchs_best_is_gone_back_to(trainer_of: Callable[..., PpoTrainer]) -> None:
    """Where somebody watches, the best that was seen is kept, and not just the last within the ceiling."""
    trainer = trainer_of(
        iterations=30, learning_rate=3e-2, update_kl_ceiling=None, kl={"coefficient": 0.0, "ceiling": 0.5}
    )
    trainer.watch = watch = Count(best={0})
    list(trainer.train())
    assert trainer.stopped is not None
    assert max(watch.shown) > 0
    assert torch.equal(vector(trainer.policy), watch.shown[0])


def test_a_watch_that_does_not_stop_the_run_leaves_the_last_policy(trainer_of: Callable[..., PpoTrainer]) -> None:
    """The best is gone back to only when something was wrong."""
    trainer = trainer_of(iterations=3, learning_rate=1e-2)
    trainer.watch = watch = Count(best={1})
    list(trainer.train())
    assert torch.equal(vector(trainer.policy), watch.shown[3])
    assert trainer.stopped is None


@pytest.mark.parametrize(
    "fields",
    [
        {"kl": {"coefficient": 0.1, "target": 1.0, "horizon": 100, "ceiling": 50.0}, "critic_warmup": 1},
        {"critic": "head"},
        {"algorithm": "grpo", "completions": 2},
    ],
)
def test_a_resumed_run_equals_one_that_never_stopped(
    trainer_of: Callable[..., PpoTrainer],
    fields: dict[str, object],
    tmp_path: Path,
    shake: Callable[[Policy | None], None],
) -> None:
    """Five iterations at once, or two, a file, and three by another trainer: the same figures and weights."""
    fields = {"iterations": 5, "learning_rate": 1e-2, "prompts_per_iteration": 3, **fields}
    whole, first, second = (trainer_of(**fields) for _ in range(3))
    for trainer in (whole, first, second):
        trainer.watch = Count(best={1})
    rows = list(whole.train())
    steps = first.train()
    before = [next(steps) for _ in range(2)]
    torch.save(first.state_dict(), tmp_path / "state.pt")
    shake(second.policy)
    torch.rand(7)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert before + list(second.train()) == rows
    assert torch.equal(vector(second.policy), vector(whole.policy))
    assert second.kept is not None
    for ours, theirs in zip(second.kept.weights, whole.kept.weights, strict=True):
        assert torch.equal(ours, theirs)
    if whole.critic is not None:
        for name, weight in whole.critic.state_dict().items():
            assert torch.equal(weight, second.critic.state_dict()[name])
    assert second.watch.shown.keys() == whole.watch.shown.keys()


def test_a_checkpoint_of_another_reference_is_refused(
    trainer_of: Callable[..., PpoTrainer], gpt2: Policy, shake: Callable[[Policy | None], None]
) -> None:
    """KL to one start and weights from another would not fit together."""
    state = trainer_of().state_dict()
    other = trainer_of()
    shake(other.reference)
    with pytest.raises(ValueError, match="made with another reference"):
        other.load_state_dict(state)
