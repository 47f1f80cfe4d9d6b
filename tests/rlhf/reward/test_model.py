"""The reward model as others see it: scores do not depend on company, constants and weights come back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rlhf.reward import RewardModel, load_reward_model
from rlhf.reward.encoder import EncoderReward
from rlhf.reward.scalar import ScalarReward
from rlhf.settings.model import ComputeSettings

CPU = ComputeSettings(device="cpu")
PROMPTS = ["name[Quill]", "name[Kestrel], kind[diner]", "kind[tavern], dish[tapas], price[cheap]", "name[Quill]"]
COMPLETIONS = ["Quill is a diner.", "Kestrel", "A tavern called Quill serves tapas at cheap prices.", ""]


def test_a_score_does_not_depend_on_the_others_in_its_batch(network: ScalarReward | EncoderReward) -> None:
    """One at a time, by twos, all at once, or reversed: the same scores, in the order of the completions."""
    model = RewardModel(network)
    whole = model.score(PROMPTS, COMPLETIONS)
    assert len(set(whole.tolist())) == 4
    for scores in (
        model.score(PROMPTS, COMPLETIONS, batch_size=1),
        model.score(PROMPTS, COMPLETIONS, batch_size=2),
        model.score(PROMPTS[::-1], COMPLETIONS[::-1]).flip(0),
        torch.cat([model.score(PROMPTS[row : row + 1], COMPLETIONS[row : row + 1]) for row in range(4)]),
    ):
        torch.testing.assert_close(scores, whole, atol=2e-5, rtol=1e-5)


def test_scoring_switches_dropout_off_and_needs_no_gradient(encoder: EncoderReward) -> None:
    """A network that comes in training mode gives the same scores twice."""
    model = RewardModel(encoder.train())
    scores = model.score(PROMPTS, COMPLETIONS)
    assert torch.equal(scores, model.score(PROMPTS, COMPLETIONS))
    assert not scores.requires_grad


def test_normalising_gives_mean_nought_and_deviation_one(network: ScalarReward | EncoderReward) -> None:
    """Over the completions it is set on, in the population's sense; twice is once; the order stays."""
    model = RewardModel(network, mean=5.0, deviation=3.0)
    raw = RewardModel(network).score(PROMPTS, COMPLETIONS)
    model.normalise(PROMPTS, COMPLETIONS)
    scores = model.score(PROMPTS, COMPLETIONS)
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert scores.square().mean().item() == pytest.approx(1.0, abs=1e-4)
    torch.testing.assert_close(scores, (raw - raw.mean()) / raw.std(correction=0), atol=1e-4, rtol=1e-4)
    constants = model.mean, model.deviation
    model.normalise(PROMPTS, COMPLETIONS)
    assert (model.mean, model.deviation) == pytest.approx(constants)


def test_scores_that_do_not_differ_are_an_error(scalar: ScalarReward) -> None:
    """A reward model that says the same of everything has learnt nothing."""
    with pytest.raises(ValueError, match="same score; it has learnt nothing"):
        RewardModel(scalar).normalise(["name[Quill]"] * 3, ["Quill"] * 3)


def test_one_prompt_is_needed_for_each_completion(scalar: ScalarReward) -> None:
    """Both counts are named."""
    with pytest.raises(ValueError, match="found 2 prompts for 3 completions"):
        RewardModel(scalar).score(["a", "b"], ["c", "d", "e"])


def test_what_is_saved_scores_the_same_when_loaded(network: ScalarReward | EncoderReward, tmp_path: Path) -> None:
    """Weights, heads and constants, of either kind; saved again, the same bytes and no path among them."""
    with torch.no_grad():
        for weight in network.heads().values():
            weight.add_(0.25)  # so that a head that is not read back shows
    model = RewardModel(network, mean=0.3, deviation=1.7)
    model.save(tmp_path / "one")
    loaded = load_reward_model(tmp_path / "one", CPU)
    loaded.save(tmp_path / "two")
    for file in sorted((tmp_path / "one").iterdir()):
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name
        assert str(tmp_path).encode() not in file.read_bytes(), file.name
    assert type(loaded.network) is type(network)
    assert not loaded.network.training
    assert (loaded.mean, loaded.deviation) == (0.3, 1.7)
    torch.testing.assert_close(loaded.score(PROMPTS, COMPLETIONS), model.score(PROMPTS, COMPLETIONS))


def test_settings_of_the_network_come_back(encoder: EncoderReward, scalar: ScalarReward, tmp_path: Path) -> None:
    """Limits, the frozen encoder, and whether the log-likelihood counts."""
    frozen = EncoderReward(encoder.backbone, encoder.tokenizer, max_tokens=33, frozen=True, max_completion_tokens=9)
    RewardModel(frozen).save(tmp_path / "encoder")
    loaded = load_reward_model(tmp_path / "encoder", CPU).network
    assert isinstance(loaded, EncoderReward)
    assert (loaded.max_tokens, loaded.frozen, loaded.max_completion_tokens) == (33, True, 9)
    file = tmp_path / "encoder" / "reward.json"  # as earlier nights wrote it
    description = {key: value for key, value in json.loads(file.read_text()).items() if key != "max_completion_tokens"}
    file.write_text(json.dumps(description))
    older = load_reward_model(tmp_path / "encoder", CPU).network
    assert isinstance(older, EncoderReward)
    assert older.max_completion_tokens is None
    RewardModel(ScalarReward(scalar.policy, False, 7)).save(tmp_path / "scalar")
    again = load_reward_model(tmp_path / "scalar", CPU).network
    assert isinstance(again, ScalarReward)
    assert (again.loglikelihood, again.max_completion_tokens) == (False, 7)


def test_a_folder_without_a_reward_model_is_named(tmp_path: Path) -> None:
    """The error says what is missing and who writes it."""
    with pytest.raises(FileNotFoundError, match=r"no reward.json here; give a folder that the reward stage wrote"):
        load_reward_model(tmp_path, CPU)


def test_a_reward_model_that_is_not_finite_is_neither_normalised_nor_saved(
    scalar: ScalarReward, tmp_path: Path
) -> None:
    """Its scores tell nothing, which is another thing than having learnt nothing."""
    with torch.no_grad():
        next(iter(scalar.heads().values())).fill_(float("nan"))
    model = RewardModel(scalar)
    with pytest.raises(ValueError, match=r"of 4 scores of the reward model 4 are not finite \(nan\)"):
        model.normalise(PROMPTS, COMPLETIONS)
    with pytest.raises(ValueError, match=r"reward: .* is not finite and is not saved"):
        model.save(tmp_path / "reward")
    assert not (tmp_path / "reward" / "reward.json").exists()


def test_constants_that_are_not_finite_are_not_saved(scalar: ScalarReward, tmp_path: Path) -> None:
    """Nor what every score would be divided by."""
    with pytest.raises(ValueError, match="deviation is not finite"):
        RewardModel(scalar, 0.0, float("inf")).save(tmp_path / "reward")
