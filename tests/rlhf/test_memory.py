"""Micro-batches that shrink: what memory has no room for is done with half of it, to the same gradient."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from rlhf.batches import Batch
from rlhf.dpo.trainer import DpoTrainer
from rlhf.memory import MicroBatches
from rlhf.models import Policy
from rlhf.ppo.trainer import PpoTrainer
from rlhf.reward.scalar import ScalarReward
from rlhf.reward.training import group_pairs, train_reward
from rlhf.settings.reward import RewardSettings
from rlhf.settings.sft import SftSettings
from rlhf.sft import train_sft
from tests.rlhf.dpo.conftest import dpo_of as dpo_of
from tests.rlhf.ppo.conftest import trainer_of as trainer_of
from tests.rlhf.reward.conftest import pairs as pairs
from tests.rlhf.reward.conftest import scalar as scalar

EXAMPLES = [([3, 4, 2], [5, 6, 7, 1]), ([7, 2], [3, 1]), ([5, 5, 6, 4, 2], [6, 1]), ([4, 2], [7, 7, 4, 3, 1])]
STEP: dict[str, Any] = {"steps": 1, "batch_size": 4, "learning_rate": 1e-2, "warmup_share": 0.0}


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], None]:
    """Has a function that takes a batch or examples run out of memory past so many rows, its work half done."""

    def replace(name: str, room: int) -> None:
        module, _, function = name.rpartition(".")
        original = getattr(import_module(module), function)

        def narrowed(owner: Any, given: Any, *rest: Any) -> Any:
            result = original(owner, given, *rest)
            if len(given.input_ids if isinstance(given, Batch) else given) > room:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it")
            return result

        monkeypatch.setattr(name, narrowed)

    return replace


def test_a_size_is_halved_until_it_fits_and_stays() -> None:
    """Of 10 rows 10, 5 and 3 are tried; what was half done is undone each time, and the next step starts with 3."""
    tried: list[int] = []
    undone: list[int] = []
    said: list[str] = []

    def work(size: int) -> str:
        tried.append(size)
        if size > 3:
            raise torch.OutOfMemoryError("no room\nat all")
        return "done"

    micro = MicroBatches("sft", None, said.append)
    for _ in range(2):
        assert micro.attempt(10, work, lambda: undone.append(tried[-1])) == "done"
    assert tried == [10, 5, 3, 3]
    assert undone == [10, 5]
    assert said[1] == (
        "memory ran out with 5 rows at once (no room); the step is done again with 3, to the same gradient; "
        "set sft.micro_batch_size to 3 to save the attempt"
    )


def test_a_single_row_that_does_not_fit_is_an_error() -> None:
    """It names the param, and what else there is to do."""

    def work(size: int) -> None:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(
        ValueError, match=r"with policy.micro_batch_size 1 \(no room\); take a smaller model or an adap"
    ):
        MicroBatches("policy", 2).attempt(5, work)


def test_sft_does_the_step_again_to_the_same_gradient(
    speller: Policy, clone: Callable[[Policy], Policy], narrow: Callable[[str, int], None]
) -> None:
    """Four rows, then two and two: the loss, the gradient and the weights of a step that fitted at once."""
    ends, said = [], list[str]()
    for room in (4, 2):
        policy = clone(speller)
        narrow("rlhf.sft.learn_responses", room)
        (row,) = train_sft(policy, EXAMPLES, EXAMPLES[:2], SftSettings(**STEP), tell=said.append)
        ends.append((row, parameters_to_vector(policy.model.parameters()).detach()))
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-4)
    torch.testing.assert_close(ends[1][1], ends[0][1], atol=1e-4, rtol=1e-4)
    assert [text[: len("memory ran out with 4 rows")] for text in said] == ["memory ran out with 4 rows"]
    assert "Tried to allocate 2.00 GiB." in said[0]


def test_a_reward_model_does_too(
    scalar: ScalarReward, pairs: list[Any], clone: Callable[[Policy], Policy], narrow: Callable[[str, int], None]
) -> None:
    """Rankings of unequal numbers of pairs, at once and one by one: the mean is over pairs."""
    other = ScalarReward(clone(scalar.policy), loglikelihood=True, max_completion_tokens=40)
    other.load_state_dict(scalar.state_dict())
    groups, ends = group_pairs(pairs), []
    for network, size in ((scalar, None), (other, 1)):
        settings = RewardSettings(**STEP, centring=0.1, micro_batch_size=size)
        (row,) = train_reward(network, groups, [], settings)
        ends.append(row)
    assert ends[1] == pytest.approx(ends[0], rel=1e-3)
    narrow("rlhf.reward.training.score_pairs", 1)
    said: list[str] = []
    (row,) = train_reward(scalar, groups, [], RewardSettings(**STEP), tell=said.append)
    assert [text[:26] for text in said] == ["memory ran out with 3 rows", "memory ran out with 2 rows"]
    assert row["loss"] > 0.0


@pytest.mark.parametrize("critic", ["network", "head"])
def test_ppo_does_too(trainer_of: Callable[..., PpoTrainer], critic: str, narrow: Callable[[str, int], None]) -> None:
    """The reference's logprobs and the update, with general examples beside them: the weights of a run with room."""
    ends, said = [], list[str]()
    for room in (8, 2):
        trainer = trainer_of(iterations=1, critic=critic, minibatches=1, epochs=1, ptx_coefficient=0.5)
        trainer.general = [([3, 4], [5, 6, 5, 1]), ([7], [6, 6, 1])]
        narrow("rlhf.ppo.update.response_states", room)
        narrow("rlhf.policy.rollouts.response_logprobs", room)
        trainer.micro.tell = said.append
        (row,) = trainer.train()
        ends.append(
            (row, parameters_to_vector(trainer.policy.model.parameters()).detach(), trainer.generator.get_state())
        )
    assert [text[:26] for text in said] == ["memory ran out with 8 rows", "memory ran out with 4 rows"]
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-3, abs=1e-4)
    torch.testing.assert_close(ends[1][1], ends[0][1], atol=2e-4, rtol=1e-3)
    assert torch.equal(ends[0][2], ends[1][2])


def test_sampling_without_room_names_what_to_lower(
    trainer_of: Callable[..., PpoTrainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All completions of an iteration are written at once."""
    trainer = trainer_of()

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("rlhf.policy.rollouts.sample", refuse)
    with pytest.raises(ValueError, match=r"while 8 completions were sampled at once .* lower policy.prompts_per_iter"):
        trainer.sample_experience(trainer.prompts)


def test_dpo_does_too(dpo_of: Callable[..., DpoTrainer], narrow: Callable[[str, int], None]) -> None:
    """The pairs of two prompts, five completions at first: the weights of a run that had room."""
    ends, said = [], list[str]()
    for room in (100, 2):
        trainer = dpo_of()
        trainer.reference_logprobs()
        narrow("rlhf.dpo.trainer.response_logprobs", room)
        trainer.micro.tell = said.append
        ends.append((trainer.step([0, 1]), parameters_to_vector(trainer.policy.model.parameters()).detach()))
    assert len(said) == 2
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-3, abs=1e-5)
    torch.testing.assert_close(ends[1][1], ends[0][1], atol=2e-4, rtol=1e-3)
