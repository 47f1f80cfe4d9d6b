"""reward as a stage: its figures are those of the saved model, for every kind of network, and the judge stays apart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.records import Pair
from rlhf.settings.adapters import AdapterSettings
from rlhf.settings.model import ComputeSettings
from tasks import reward, stages
from tasks.files import read_records, write_records
from tasks.params.whole import Params
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
    figures = reward.run(stages.files("reward", paths), params, night_params.model)
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
    assert curves == {"calibration.csv", "reward_loss.csv", "reward_accuracy.csv", "reward_eval_accuracy.csv"}


def test_training_moves_the_backbone_unless_it_is_frozen(
    copied_night: Callable[..., Paths], night_params: Params, kind: dict[str, Any]
) -> None:
    """A frozen encoder is saved with the weights it was built with; every other backbone, and every head, is not."""
    from rlhf.reward import load_reward_model

    paths, params = copied_night("models/reward"), night_params.reward.model_copy(update=kind)
    start = build_network(
        paths.models / "sft", read_records(paths.pairs / "train.jsonl", Pair), params, night_params.model, params.seed
    )
    reward.run(stages.files("reward", paths), params, night_params.model)
    trained = load_reward_model(paths.models / "reward", CPU).network
    before, after = start.backbone.state_dict(), trained.backbone.state_dict()
    same = all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert same == params.freeze_encoder
    assert not torch.equal(start.heads()["weight"], trained.heads()["weight"])


def test_without_likelihood_its_weights_do_not_matter(copied_night: Callable[..., Paths], night_params: Params) -> None:
    """The head alone speaks: the saved model says so, and the two weights stay where they started."""
    paths = copied_night("models/reward")
    reward.run(
        stages.files("reward", paths),
        night_params.reward.model_copy(update={"loglikelihood": False}),
        night_params.model,
    )
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
    figures = reward.run(stages.files("reward", paths), night_params.reward, night_params.model)
    assert {f"judge.{key}" for key in KEYS} <= figures.keys()
    chosen, rejected = scores(paths, "judge", read_records(paths.pairs / "test.jsonl", Pair))
    assert figures["judge.accuracy_low"] <= figures["judge.accuracy"] <= figures["judge.accuracy_high"]
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
        reward.run(stages.files("reward", paths), night_params.reward, night_params.model)
    assert not (paths.models / "reward").exists()


def test_pairs_that_the_model_cannot_tell_apart_are_dropped_and_told(
    copied_night: Callable[..., Paths], night_params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    """In each split, by the one length; training goes as without them. Where none is left, the night stops."""
    paths = copied_night("models/reward", "plots/reward")
    plain = reward.run(stages.files("reward", paths), night_params.reward, night_params.model)
    assert plain["duplicates_dropped"] == 0
    weights = (paths.models / "reward" / "model.safetensors").read_bytes()
    assert "warning" not in capsys.readouterr().err
    same = Pair(prompt="p", chosen="yes " * 200 + "a", rejected="yes " * 200 + "b", annotator="x")
    for split in ("train", "test"):
        rows = read_records(paths.pairs / f"{split}.jsonl", Pair)
        write_records(paths.pairs / f"{split}.jsonl", [same, *rows])
    figures = reward.run(stages.files("reward", paths), night_params.reward, night_params.model)
    assert figures == plain | {"duplicates_dropped": 2.0}
    assert (paths.models / "reward" / "model.safetensors").read_bytes() == weights
    train = len(read_records(paths.pairs / "train.jsonl", Pair))
    told = f"warning: reward: train: 1 of {train} pairs are the same to the reward model within reward.max_completion"
    assert told in capsys.readouterr().err
    write_records(paths.pairs / "dev.jsonl", [same])
    with pytest.raises(ValueError, match=r"reward: dev: 1 of 1 pairs are the same .* so none is left; raise it"):
        reward.run(stages.files("reward", paths), night_params.reward, night_params.model)


def test_an_encoder_that_cannot_be_had_is_named(
    copied_night: Callable[..., Paths], night_params: Params, offline: None
) -> None:
    """With the param to mend, and nothing written."""
    paths = copied_night("models/reward")
    params = night_params.reward.model_copy(update={"kind": "encoder", "encoder": "nobody/nothing-here"})
    shutil.rmtree(paths.models / "sft")  # it is told before the SFT model loads
    with pytest.raises(ValueError, match=r"reward.encoder: nobody/nothing-here: the model could not be loaded"):
        reward.run(stages.files("reward", paths), params, night_params.model)
    assert not (paths.models / "reward").exists()


def test_a_backbone_that_cannot_be_had_is_named(
    copied_night: Callable[..., Paths], night_params: Params, offline: None
) -> None:
    """As for an encoder."""
    paths = copied_night("models/reward")
    params = night_params.reward.model_copy(update={"backbone": "nobody/nothing-here"})
    with pytest.raises(ValueError, match=r"reward.backbone: nobody/nothing-here: the model could not be loaded"):
        reward.run(stages.files("reward", paths), params, night_params.model)
    assert not (paths.models / "reward").exists()


def test_a_backbone_of_another_family_reads_text_with_its_own_tokenizer(
    copied_night: Callable[..., Paths], night_params: Params, tmp_path: Path
) -> None:
    """A GPT-2 beside a llama policy: saved with its tokenizer, adapted by LoRA, and an ordinary model afterwards."""
    from rlhf.models import build_policy, save_policy
    from rlhf.reward import load_reward_model
    from rlhf.tokenizers import train_tokenizer

    paths = copied_night("models/reward")
    pairs = read_records(paths.pairs / "train.jsonl", Pair)
    tokenizer = train_tokenizer((pair.chosen for pair in pairs), 350)
    shape = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 256}
    other = build_policy(shape, tokenizer, seed=5)
    save_policy(other, tmp_path / "other")
    changes = {"backbone": str(tmp_path / "other"), "adapter": AdapterSettings(rank=2)}
    figures = reward.run(
        stages.files("reward", paths), night_params.reward.model_copy(update=changes), night_params.model
    )
    loaded = load_reward_model(paths.models / "reward", CPU)
    assert loaded.network.backbone.config.model_type == "gpt2"
    assert loaded.network.policy.tokenizer.get_vocab() == tokenizer.get_vocab()
    chosen, rejected = scores(paths, "reward", read_records(paths.pairs / "test.jsonl", Pair))
    assert figures["accuracy"] == pytest.approx((chosen > rejected).float().mean().item())
    before, after = other.model.state_dict(), loaded.network.backbone.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) for name in changed)


def test_members_differ_and_speak_as_one(
    copied_night: Callable[..., Paths], night_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seeds, and two more for the judge: a folder and curves each, the first one being the single network's."""
    from rlhf.reward import training

    seeds, train = [], training.train_reward

    def recorded(network: Any, groups: Any, dev: Any, settings: Any, *given: Any) -> Any:
        seeds.append(settings.seed)
        return train(network, groups, dev, settings, *given)

    monkeypatch.setattr(training, "train_reward", recorded)
    paths = copied_night("models/reward", "plots/reward")
    held_out = [Pair(prompt=f"p{place}", chosen="yes yes", rejected="no", annotator="x") for place in range(8)]
    write_records(paths.pairs / "judge.jsonl", held_out)
    params = night_params.reward.model_copy(update={"members": 2, "uncertainty_penalty": 1.0})
    figures = reward.run(stages.files("reward", paths), params, night_params.model)
    first = params.seed
    assert seeds == [first, first + 1, first + 2, first + 3]
    assert {"spread_mean", "spread_auc", "accuracy_member_0", "accuracy_member_1"} <= figures.keys()
    assert figures["spread_mean"] > 0
    chosen, rejected = scores(paths, "reward", read_records(paths.pairs / "test.jsonl", Pair))
    assert figures["accuracy"] == pytest.approx((chosen > rejected).float().mean().item())
    weights = [(paths.models / name / f"member_{place}" / "model.safetensors").read_bytes()
               for name in ("reward", "judge") for place in range(2)]  # fmt: skip
    assert len(set(weights)) == 4
    curves = {file.name for file in paths.plots("reward").iterdir() if file.name.startswith("reward")}
    assert curves == {f"reward_{place}{rest}" for place in range(2)
                      for rest in ("_loss.csv", "_accuracy.csv", "_eval_accuracy.csv")
                      } | {"reward_loss.csv"}  # fmt: skip
    losses = [np.loadtxt(paths.plots("reward") / f"reward{member}_loss.csv", delimiter=",", skiprows=1)
              for member in ("_0", "_1", "")]  # fmt: skip
    np.testing.assert_allclose(losses[2], (losses[0] + losses[1]) / 2, rtol=1e-4)
    alone = copied_night("models/reward")
    reward.run(stages.files("reward", alone), night_params.reward, night_params.model)
    assert (alone.models / "reward" / "model.safetensors").read_bytes() == weights[0]


def test_regression_needs_ratings_before_any_model_loads(
    copied_night: Callable[..., Paths], night_params: Params
) -> None:
    """The simulated annotator gives none: the error comes without an SFT model; with ratings in the pairs it trains."""
    paths, params = copied_night("models/reward"), night_params.reward.model_copy(update={"loss": "regression"})
    (paths.models / "sft").rename(paths.models / "away")
    with pytest.raises(ValueError, match=r"reward.loss is regression, but \d+ of \d+ pairs have no ratings"):
        reward.run(stages.files("reward", paths), params, night_params.model)
    (paths.models / "away").rename(paths.models / "sft")
    for split in ("train", "dev", "test"):
        rows = [pair.model_dump() | {"chosen_rating": 3 + (pair.margin or 0), "rejected_rating": 3}
                for pair in read_records(paths.pairs / f"{split}.jsonl", Pair)]  # fmt: skip
        write_records(paths.pairs / f"{split}.jsonl", [Pair.model_validate(row) for row in rows])
    assert reward.run(stages.files("reward", paths), params, night_params.model).keys() >= KEYS
