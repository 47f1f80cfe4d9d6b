"""Ensembles: mean and spread against a naive loop, what the penalty costs, and how they come back from disk."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.models import Policy
from rlhf.records import Pair
from rlhf.reward import Ensemble, RewardModel, load_reward_model
from rlhf.reward.evaluation import evaluate_pairs
from rlhf.reward.scalar import ScalarReward
from rlhf.reward.training import group_pairs, score_all
from rlhf.settings.model import ComputeSettings

CPU = ComputeSettings(device="cpu")
PROMPTS = ["name[Quill]", "name[Kestrel], kind[diner]", "kind[tavern], dish[tapas], price[cheap]", "name[Quill]"]
COMPLETIONS = ["Quill is a diner.", "Kestrel", "A tavern called Quill serves tapas at cheap prices.", ""]


@pytest.fixture
def members(llama: Policy, clone: Callable[[Policy], Policy]) -> list[RewardModel]:
    """Three reward models whose heads, offsets and scales differ."""
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        network = ScalarReward(clone(llama), loglikelihood=False, max_completion_tokens=40)
        torch.nn.init.normal_(network.head.weight, std=0.5 + seed)
        torch.nn.init.constant_(network.head.bias, 10.0 * seed)
        models.append(RewardModel(network))
    return models


def test_the_score_by_hand(members: list[RewardModel]) -> None:
    """Two members with constants (1, 2) and (0, 1), raw scores 5 and 4, so z = 2 and 4: mean 3, deviation 1.

    Less half a deviation 2½; with the ensemble's own constants (½, 4) that is a score of ½ and a spread of ¼.
    """
    first, second = RewardModel(members[0].network, 1.0, 2.0), RewardModel(members[1].network)
    found = Ensemble([first, second], 0.5, mean=0.5, deviation=4.0).combine(torch.tensor([[5.0], [4.0]]))
    assert found.scores.tolist() == [0.5]
    assert found.spread.tolist() == [0.25]


@settings(deadline=None)
@given(
    raw=st.lists(st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), min_size=2, max_size=5),
    penalty=st.floats(0, 3),
)
def test_mean_and_spread_are_those_of_a_loop(scalar_once: ScalarReward, raw: list[list[float]], penalty: float) -> None:
    """Completion by completion, with Python's own statistics."""
    constants = [(0.5 * place, 1.0 + place) for place in range(len(raw))]
    ensemble = Ensemble([RewardModel(scalar_once, *pair) for pair in constants], penalty, mean=0.3, deviation=1.7)
    found = ensemble.combine(torch.tensor(raw))
    for place in range(3):
        z = [(row[place] - mean) / deviation for row, (mean, deviation) in zip(raw, constants, strict=True)]
        spread = statistics.pstdev(z)
        assert found.spread[place].item() == pytest.approx(spread / 1.7, abs=1e-4)
        expected = (statistics.fmean(z) - penalty * spread - 0.3) / 1.7
        assert found.scores[place].item() == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def scalar_once(llama: Policy) -> ScalarReward:
    """A network for tests that look at nothing but constants."""
    return ScalarReward(llama, loglikelihood=False, max_completion_tokens=8)


def test_one_network_has_no_spread(members: list[RewardModel]) -> None:
    """Its assessment is its score."""
    found = members[0].assess(PROMPTS, COMPLETIONS)
    assert torch.equal(found.scores, members[0].score(PROMPTS, COMPLETIONS))
    assert found.spread.tolist() == [0.0] * 4


@pytest.mark.parametrize("penalty", [0.0, 2.0])
def test_normalising_makes_the_penalised_score_nought_and_one(members: list[RewardModel], penalty: float) -> None:
    """Each member first, so that none outweighs the others by its scale; the ensemble's own score after that."""
    ensemble = Ensemble(members, penalty)
    ensemble.normalise(PROMPTS, COMPLETIONS)
    for model in (*members, ensemble):
        scores = model.score(PROMPTS, COMPLETIONS)
        assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)
        assert scores.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    constants = ensemble.mean, ensemble.deviation
    ensemble.normalise(PROMPTS, COMPLETIONS)
    assert (ensemble.mean, ensemble.deviation) == pytest.approx(constants, abs=1e-4)


def test_the_penalty_takes_off_where_members_disagree(members: list[RewardModel]) -> None:
    """Two deviations, in the units of the score."""
    for model in members:
        model.normalise(PROMPTS, COMPLETIONS)
    plain = Ensemble(members).assess(PROMPTS, COMPLETIONS)
    penalised = Ensemble(members, 2.0).assess(PROMPTS, COMPLETIONS)
    assert plain.spread.min().item() > 1e-3
    torch.testing.assert_close(penalised.scores, plain.scores - 2.0 * plain.spread, atol=1e-5, rtol=1e-5)


def test_members_that_agree_are_as_one(members: list[RewardModel]) -> None:
    """No spread, and the score of one, whatever the penalty."""
    members[0].normalise(PROMPTS, COMPLETIONS)
    found = Ensemble([members[0]] * 3, 5.0).assess(PROMPTS, COMPLETIONS)
    torch.testing.assert_close(found.scores, members[0].score(PROMPTS, COMPLETIONS), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.spread, torch.zeros(4), atol=1e-5, rtol=0.0)


def test_an_ensemble_comes_back_from_disk(members: list[RewardModel], tmp_path: Path) -> None:
    """Constants, penalty and every member, each a reward model by itself; saved again, the same bytes."""
    ensemble = Ensemble(members, 0.5)
    ensemble.normalise(PROMPTS, COMPLETIONS)
    ensemble.save(tmp_path / "one")
    loaded = load_reward_model(tmp_path / "one", CPU)
    loaded.save(tmp_path / "two")
    files = [file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file()]
    assert {file.parts[0] for file in files} == {"reward.json", "member_0", "member_1", "member_2"}
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file
    ours, theirs = (model.assess(PROMPTS, COMPLETIONS) for model in (ensemble, loaded))
    torch.testing.assert_close(ours, theirs)
    assert json.loads((tmp_path / "one" / "reward.json").read_text())["uncertainty_penalty"] == 0.5
    second = load_reward_model(tmp_path / "one" / "member_1", CPU)
    torch.testing.assert_close(second.score(PROMPTS, COMPLETIONS), members[1].score(PROMPTS, COMPLETIONS))
    assert loaded.network is loaded.members[0].network


def test_figures_of_an_ensemble_are_those_of_its_members(members: list[RewardModel], pairs: list[Pair]) -> None:
    """Counted pair by pair: each member's accuracy, the ensemble's, the mean spread, and calibration of raw scores."""
    ensemble = Ensemble(members, 1.0)
    ensemble.normalise(PROMPTS, COMPLETIONS)
    figures = evaluate_pairs(ensemble, pairs).figures
    assessed = [ensemble.assess([pair.prompt] * 2, [pair.chosen, pair.rejected]) for pair in pairs]
    assert figures["accuracy"] == statistics.fmean(float(found.scores[0] > found.scores[1]) for found in assessed)
    assert figures["spread_mean"] == pytest.approx(statistics.fmean(float(found.spread.mean()) for found in assessed))
    for place, member in enumerate(members):
        right = [float(scores[0] > scores[1]) for pair in pairs
                 for scores in [member.score([pair.prompt] * 2, [pair.chosen, pair.rejected])]]  # fmt: skip
        assert figures[f"accuracy_member_{place}"] == statistics.fmean(right)
    raw = [score_all(member.network, group_pairs(pairs)) for member in members]
    gaps = torch.stack([chosen - rejected for chosen, rejected in raw]).mean(0).tolist()
    bins: dict[int, list[tuple[float, float]]] = {}
    for gap in gaps:
        sure = 1 / (1 + math.exp(-abs(gap)))
        bins.setdefault(min(9, int((sure - 0.5) * 20)), []).append((float(gap > 0), sure))
    ece = sum(abs(sum(right - sure for right, sure in found)) for found in bins.values()) / len(gaps)
    assert figures["ece"] == pytest.approx(ece, abs=1e-5)


def test_a_single_network_has_no_figures_of_an_ensemble(members: list[RewardModel], pairs: list[Pair]) -> None:
    """No spread and no members."""
    assert not [key for key in evaluate_pairs(members[0], pairs).figures if "spread" in key or "member" in key]
