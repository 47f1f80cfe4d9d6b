"""A night's deadline, and what training saves when it comes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tasks import deadline, progress, stages
from tasks import policy as policy_stage
from tasks.params.whole import Params
from tasks.paths import Paths


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A clock that stands still until it is set."""
    hands = {"now": 1000.0}
    monkeypatch.setattr("tasks.deadline.time.time", lambda: hands["now"])
    return hands


def test_the_deadline_passes_after_its_minutes(clock: dict[str, float]) -> None:
    """Half a minute is 30 seconds; a stage in a subprocess has it in its environment; outside there is none."""
    with deadline.within(0.5):
        assert float(os.environ[deadline.VARIABLE]) == 1030.0
        clock["now"] = 1029.9
        deadline.check("before sft")
        clock["now"] = 1030.0
        with pytest.raises(deadline.DeadlineError, match="over before sft; the next night resumes there"):
            deadline.check("before sft")
    assert not deadline.has_passed()
    with deadline.within(None):
        assert not deadline.has_passed()


@pytest.mark.parametrize(("last", "drawn"), [(2, 2), (4, 4)])
def test_training_ends_after_the_step_in_which_the_deadline_passed(
    clock: dict[str, float], last: int, drawn: int
) -> None:
    """What was done is saved once and nothing more is trained; work that is done with its last step just ends."""
    done: list[int] = []
    saved: list[int] = []

    def steps() -> Iterator[dict[str, float]]:
        for step in range(1, 5):
            clock["now"] += 100.0 if step == last else 0.0
            done.append(step)
            yield {"loss": 1.0}

    with deadline.within(1.0):
        if last < 4:
            with pytest.raises(deadline.DeadlineError, match="at step 2 of 4 of sft"):
                progress.follow(steps(), "sft", 4, save=lambda: saved.append(len(done)))
        else:
            assert len(progress.follow(steps(), "sft", 4, save=lambda: saved.append(len(done)))) == 4
    assert len(done) == drawn
    assert saved == ([2] if last < 4 else [])


def test_ppo_goes_on_from_the_deadline_bit_for_bit(
    copied_night: Callable[..., Paths], night_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended after two of four iterations, with no checkpoint due by then: the very policy of a run without one.

    A second night whose time is over at once loses nothing and trains nothing.
    """
    from rlhf.ppo.update import update

    paths = copied_night("models/policy", "plots/policy")
    params = night_params.policy.model_copy(update={"iterations": 4, "checkpoint_every": 0})
    figures = policy_stage.run(stages.files("policy", paths), params, night_params.model)
    weights = paths.models / "policy" / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()

    original: Any = update
    calls: list[int] = []

    def counted(*given: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 2:
            monkeypatch.setenv(deadline.VARIABLE, "0")
        return original(*given)

    monkeypatch.setattr("rlhf.ppo.trainer.update", counted)
    for _ in range(2):
        with pytest.raises(deadline.DeadlineError, match=r"at step \d of 4 of policy"):
            policy_stage.run(stages.files("policy", paths), params, night_params.model)
        assert len(calls) == 2
        assert not weights.exists()
    monkeypatch.delenv(deadline.VARIABLE)
    assert json.dumps(policy_stage.run(stages.files("policy", paths), params, night_params.model)) == json.dumps(
        figures
    )
    assert len(calls) == 4
    assert weights.read_bytes() == whole
