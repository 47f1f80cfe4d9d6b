"""reward as a stage: its figures are those of the saved model, for every kind of network, and the judge stays apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlhf.records import Pair
from rlhf.settings import ComputeSettings
from tasks import reward
from tasks.files import read_records, write_records
from tasks.params import Params
from tasks.paths import Paths
from tasks.reward import build_network, sft_completions

CPU = ComputeSettings(device="cpu")
KEYS = {"accuracy", "auc", "spearman", "pearson", "ece", "accuracy_by_length", "test_pairs"}
KINDS: dict[str, dict[str, Any]] = {
    "scalar": {"kind": "scalar"},
    "scalar without likelihood": {"kind": "scalar", "loglikelihood": False},
    "encoder": {"kind": "encoder"},
    "frozen encoder": {"kind": "encoder", "freeze_encoder": True},
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The params of each kind of network."""
    return KINDS[request.param]


def scores(paths: Paths, name: str, pairs: list[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
    """What a saved model says of chosen and rejected, pair by pair and text by text."""
    from rlhf.reward import load_reward_model

    model = load_reward_model(paths.models / name, CPU)
    sides = [[model.score([pair.prompt], [text])[0] for pair in pairs for text in [getattr(pair, side)]]
             for side in ("chosen", "rejected")]  # fmt: skip
    return torch.stack(sides[0]), torch.stack(sides[1])


def test_the_figures_are_those_of_the_saved_model(
    copied_night: Callable[..., Paths], night_params: Params, kind: dict[str, Any]
) -> None:
    """Loaded again, its accuracy counted pair by pair is the one reported; SFT's completions have scores of 0 ± 1."""
    from rlhf.models import load_policy
    from rlhf.reward import load_reward_model

    paths, params = copied_night("models/reward", "plots/reward"), night_params.reward.model_copy(update=kind)
    figures = reward.run(paths, params, night_params.model)
    assert figures.keys() >= KEYS
    test = read_records(paths.pairs / "test.jsonl", Pair)
    chosen, rejected = scores(paths, "reward", test)
    assert figures["accuracy"] == pytest.approx((chosen > rejected).float().mean().item())
    longer = [len(pair.chosen.split()) - len(pair.rejected.split()) for pair in test]
    by_length = sum(1.0 if words > 0 else 0.5 if words == 0 else 0.0 for words in longer) / len(test)
    assert figures["accuracy_by_length"] == pytest.approx(by_length)
    assert figures["test_pairs"] == len(test)
    policy = load_policy(paths.models / "sft", CPU)
    prompts, texts = sft_completions(policy, read_records(paths.pairs / "train.jsonl", Pair), params)
    normalised = load_reward_model(paths.models / "reward", CPU).score(prompts, texts)
    assert normalised.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert normalised.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    curves = {file.name for file in paths.plots("reward").iterdir()}
    assert curves == {"reward.png", "reward_loss.csv", "reward_eval_accuracy.csv"}


def test_training_moves_the_backbone_unless_it_is_frozen(
    copied_night: Callable[..., Paths], night_params: Params, kind: dict[str, Any]
) -> None:
    """A frozen encoder is saved with the weights it was built with; every other backbone, and every head, is not."""
    from rlhf.reward import load_reward_model

    paths, params = copied_night("models/reward"), night_params.reward.model_copy(update=kind)
    torch.manual_seed(params.seed)
    start = build_network(paths, read_records(paths.pairs / "train.jsonl", Pair), params, night_params.model)
    reward.run(paths, params, night_params.model)
    trained = load_reward_model(paths.models / "reward", CPU).network
    before, after = start.backbone.state_dict(), trained.backbone.state_dict()
    same = all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert same == params.freeze_encoder
    assert not torch.equal(start.heads()["weight"], trained.heads()["weight"])


def test_without_likelihood_its_weights_do_not_matter(copied_night: Callable[..., Paths], night_params: Params) -> None:
    """The head alone speaks: the saved model says so, and the two weights stay where they started."""
    paths = copied_night("models/reward")
    reward.run(paths, night_params.reward.model_copy(update={"loglikelihood": False}), night_params.model)
    from rlhf.reward import load_reward_model

    assert json.loads((paths.models / "reward" / "reward.json").read_text())["loglikelihood"] is False
    heads = load_reward_model(paths.models / "reward", CPU).network.heads()
    torch.testing.assert_close(heads["likelihood"].detach(), torch.tensor([0.1, 1.0]))


def test_the_judge_learns_from_its_own_rankings_alone(
    copied_night: Callable[..., Paths], night_params: Params, small_night: Paths
) -> None:
    """With rankings held out there is a judge with figures of its own, and the reward model stays bit for bit."""
    assert json.loads((small_night.models / "judge" / "judge.json").read_text()) == {"rankings": 0}
    assert not (small_night.models / "judge" / "reward.json").exists()
    paths = copied_night("models/reward")
    held_out = [Pair(prompt=f"p{place}", chosen="yes yes", rejected="no", annotator="x") for place in range(20)]
    write_records(paths.pairs / "judge.jsonl", held_out)
    figures = reward.run(paths, night_params.reward, night_params.model)
    assert {f"judge.{key}" for key in KEYS} <= figures.keys()
    chosen, rejected = scores(paths, "judge", read_records(paths.pairs / "test.jsonl", Pair))
    assert figures["judge.accuracy"] == pytest.approx((chosen > rejected).float().mean().item())
    for side in ("model.safetensors", "head.safetensors", "reward.json"):
        ours = (paths.models / "reward" / side).read_bytes()
        assert ours == (small_night.models / "reward" / side).read_bytes()
        assert ours != (paths.models / "judge" / side).read_bytes()


def test_no_pair_to_learn_from_is_an_error(copied_night: Callable[..., Paths], night_params: Params) -> None:
    """An empty split says where to look, and no model is written."""
    paths = copied_night("models/reward")
    (paths.pairs / "train.jsonl").write_text("")
    with pytest.raises(ValueError, match="found no pair to train on"):
        reward.run(paths, night_params.reward, night_params.model)
    assert not (paths.models / "reward").exists()


def test_an_encoder_that_cannot_be_had_is_named(
    copied_night: Callable[..., Paths], night_params: Params, offline: None
) -> None:
    """With the param to mend, and nothing written."""
    paths = copied_night("models/reward")
    params = night_params.reward.model_copy(update={"kind": "encoder", "encoder": "nobody/nothing-here"})
    with pytest.raises(ValueError, match=r"reward.encoder: nobody/nothing-here: the model could not be loaded"):
        reward.run(paths, params, night_params.model)
    assert not (paths.models / "reward").exists()
