"""Training on pairs: completions are read once, the loss is the one by hand, and it learns what it is shown."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from rlhf.finite import BadBatches
from rlhf.models import Policy
from rlhf.records import Pair
from rlhf.reward.encoder import EncoderReward
from rlhf.reward.losses import pairwise_loss
from rlhf.reward.scalar import ScalarReward
from rlhf.reward.training import (
    check_pairs,
    distinct_pairs,
    group_pairs,
    make_loss,
    score_all,
    score_pairs,
    train_reward,
)
from rlhf.settings.reward import RewardSettings


def settings(**fields: object) -> RewardSettings:
    defaults = {"steps": 1, "batch_size": 8, "learning_rate": 1e-2, "warmup_share": 0.0, "weight_decay": 0.0}
    return RewardSettings.model_validate(defaults | fields)


def test_pairs_that_are_the_same_once_cut_are_told_from_the_others(
    scalar: ScalarReward, encoder: EncoderReward, llama: Policy, clone: Callable[[Policy], Policy]
) -> None:
    """Each network by its own tokens: texts that differ past the cut, or in what the tokenizer does not see."""
    late = Pair(prompt="p", chosen="Quill is a diner. serves", rejected="Quill is a diner. tapas", annotator="a")
    early = Pair(prompt="p", chosen="Quill is a diner.", rejected="A tavern", annotator="a")
    case = Pair(prompt="p", chosen="QUILL", rejected="quill", annotator="a")
    shared = len(llama.tokenizer.encode("Quill is a diner.", add_special_tokens=False))
    short = ScalarReward(clone(llama), loglikelihood=False, max_completion_tokens=shared)
    assert distinct_pairs(scalar, [late, early, case]) == [late, early, case]
    assert distinct_pairs(short, [late, early, case]) == [early, case]
    words = len(encoder.tokenizer("Quill is a diner.", add_special_tokens=False)["input_ids"])
    cutting = EncoderReward(encoder.backbone, encoder.tokenizer, 60, frozen=False, max_completion_tokens=words)
    assert distinct_pairs(encoder, [late, early, case]) == [late, early]  # its WordPiece is lower-cased
    assert distinct_pairs(cutting, [late, early, case]) == [early]
    assert distinct_pairs(short, []) == []


def test_pairs_of_a_ranking_share_their_completions(pairs: list[Pair]) -> None:
    """Three pairs of one ranking hold three texts, not six; pairs of other rankings, or of none, stay apart."""
    groups = group_pairs(pairs)
    assert [group.completions for group in groups] == [
        ["Quill is a diner.", "Quill is.", "Diner"],
        ["Kestrel is a tavern.", "A tavern"],
        ["Kestrel is a tavern.", "A"],
    ]
    assert (groups[0].chosen, groups[0].rejected) == ([0, 0, 1], [1, 2, 2])
    assert [group.pairs for group in groups] == [[pairs[0], pairs[1], pairs[3]], [pairs[2]], [pairs[4]]]
    for group in groups:
        for pair, chosen, rejected in zip(group.pairs, group.chosen, group.rejected, strict=True):
            assert (group.completions[chosen], group.completions[rejected]) == (pair.chosen, pair.rejected)


@torch.no_grad()
def test_grouped_scores_equal_those_of_each_pair_alone(
    network: ScalarReward | EncoderReward, pairs: list[Pair]
) -> None:
    """In one forward or in batches of one group: the same, in the order of the groups' pairs."""
    network.eval()
    groups = group_pairs(pairs)
    ordered = [pair for group in groups for pair in group.pairs]
    expected = tuple(
        torch.cat([network(network.encode([pair.prompt], [getattr(pair, side)])) for pair in ordered])
        for side in ("chosen", "rejected")
    )
    for scores in (score_pairs(network, groups), score_all(network, groups, batch_size=1), score_all(network, groups)):
        for ours, theirs in zip(scores, expected, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_each_completion_goes_through_the_network_once(scalar: ScalarReward, pairs: list[Pair]) -> None:
    """Seven rows for five pairs, in one forward for both sides."""
    rows: list[int] = []
    scalar.register_forward_pre_hook(lambda _, batch: rows.append(len(batch[0].input_ids)))
    score_pairs(scalar, group_pairs(pairs))
    assert rows == [7]


def test_the_first_step_reports_the_loss_of_all_pairs(scalar: ScalarReward, pairs: list[Pair]) -> None:
    """The mean over pairs, so that a ranking counts by its pairs; accuracy is the share with the chosen above."""
    groups = group_pairs(pairs)
    chosen, rejected = score_all(scalar, groups)
    (figures,) = train_reward(scalar, groups, [], settings())
    assert figures["loss"] == pytest.approx(pairwise_loss(chosen, rejected).item(), abs=1e-5)
    assert figures["accuracy"] == pytest.approx((chosen > rejected).float().mean().item())
    assert figures["learning_rate"] == pytest.approx(1e-2)
    assert "eval_loss" not in figures


def test_training_learns_the_pairs_it_is_shown(network: ScalarReward | EncoderReward, pairs: list[Pair]) -> None:
    """From whatever start to every pair right, with a loss well below log 2; evaluation mode is on afterwards."""
    groups = group_pairs(pairs)
    figures = list(train_reward(network, groups, groups, settings(steps=40, eval_every=15)))
    assert figures[-1]["eval_accuracy"] == 1.0
    assert figures[-1]["eval_loss"] < 0.5 * math.log(2)
    assert [step for step, row in enumerate(figures, 1) if "eval_loss" in row] == [15, 30, 40]
    assert not network.training


def test_swapped_pairs_teach_the_opposite(scalar: ScalarReward, pairs: list[Pair]) -> None:
    """Trained on the same pairs with the sides swapped, it gets every one of the originals wrong."""
    swapped = [pair.model_copy(update={"chosen": pair.rejected, "rejected": pair.chosen}) for pair in pairs]
    list(train_reward(scalar, group_pairs(swapped), [], settings(steps=40)))
    chosen, rejected = score_all(scalar, group_pairs(pairs))
    assert bool((chosen < rejected).all())


def test_a_frozen_encoder_does_not_change_in_training(encoder: EncoderReward, pairs: list[Pair]) -> None:
    """Its head moves; not a bit of the encoder does, weight decay and all."""
    frozen = EncoderReward(encoder.backbone, encoder.tokenizer, max_tokens=60, frozen=True)
    before = {name: weight.clone() for name, weight in frozen.state_dict().items()}
    list(train_reward(frozen, group_pairs(pairs), [], settings(steps=3, weight_decay=0.1)))
    moved = {name for name, weight in frozen.state_dict().items() if not torch.equal(weight, before[name])}
    assert "head.weight" in moved
    assert moved <= {"head.weight", "head.bias"}  # a bias shifts both sides alike, so it need not move


def test_centring_draws_the_scores_of_a_pair_to_nought(
    llama: Policy, clone: Callable[[Policy], Policy], pairs: list[Pair]
) -> None:
    """Of two runs from one start, the one with centring ends with sides whose sums are nearer 0, and as right."""
    offsets = []
    for centring in (0.0, 1.0):
        torch.manual_seed(0)
        network = ScalarReward(clone(llama), loglikelihood=False, max_completion_tokens=40)
        torch.nn.init.constant_(network.head.bias, 3.0)
        list(train_reward(network, group_pairs(pairs), [], settings(steps=60, centring=centring)))
        chosen, rejected = score_all(network, group_pairs(pairs))
        assert bool((chosen > rejected).all())
        offsets.append((chosen + rejected).abs().mean().item())
    assert offsets[1] < 0.3 * offsets[0]


def test_no_pair_is_an_error(scalar: ScalarReward) -> None:
    """It is raised before any step, with where to look."""
    with pytest.raises(ValueError, match=r"found no pair to train on; are all rankings ties\?"):
        list(train_reward(scalar, [], [], settings()))


def rated(pairs: list[Pair], ratings: list[tuple[float, float]]) -> list[Pair]:
    """The pairs with the ratings of their two sides."""
    sides = ("chosen_rating", "rejected_rating")
    return [
        Pair.model_validate(pair.model_dump() | dict(zip(sides, both, strict=True)))
        for pair, both in zip(pairs, ratings, strict=True)
    ]


def test_a_pairs_own_margin_scales_the_margin_and_its_absence_counts_one(pairs: list[Pair]) -> None:
    """With reward.margin ½ and margins 4 and none: -log σ(Δ - 2) and -log σ(Δ - ½), at Δ = 0."""
    groups = group_pairs([pairs[2].model_copy(update={"margin": 4.0}), pairs[4]])
    loss = make_loss(groups, settings(margin=0.5))(torch.zeros(2), torch.zeros(2), groups)
    assert loss.item() == pytest.approx((math.log1p(math.exp(2)) + math.log1p(math.exp(0.5))) / 2)


def test_options_of_the_loss_reach_training(scalar: ScalarReward, pairs: list[Pair]) -> None:
    """The first step's loss is the one with margin and smoothing, and dev is measured by the same."""
    groups = group_pairs(pairs)
    chosen, rejected = score_all(scalar, groups)
    (figures,) = train_reward(scalar, groups, groups, settings(margin=2.0, label_smoothing=0.1, learning_rate=1e-9))
    expected = pairwise_loss(chosen, rejected, 2.0, 0.1).item()
    assert figures["loss"] == pytest.approx(expected, abs=1e-5)
    assert figures["eval_loss"] == pytest.approx(expected, abs=1e-4)
    assert abs(expected - pairwise_loss(chosen, rejected).item()) > 0.05


def test_regression_by_hand(pairs: list[Pair]) -> None:
    """Train ratings 4, 2, 3, 1 (mean 2.5, variance 1.25); a dev pair rated 5 and 0 with scores 1 and 0.

    z = ±2.5/√1.25 = ±√5, so the loss is ((1 - √5)² + 5)/2; dev is measured in train's units.
    """
    train, dev = rated([pairs[2], pairs[4]], [(4, 2), (3, 1)]), group_pairs(rated(pairs[2:3], [(5, 0)]))
    loss = make_loss(group_pairs(train), settings(loss="regression"))(torch.ones(1), torch.zeros(1), dev)
    assert loss.item() == pytest.approx(((1 - math.sqrt(5)) ** 2 + 5) / 2, rel=1e-5)


def test_regression_learns_the_ratings(scalar: ScalarReward, pairs: list[Pair]) -> None:
    """Ratings of 90, 50 and 10 are learnt with their distances: equal steps, where a pairwise loss sees order alone."""
    ranked = group_pairs(rated([pairs[0], pairs[1], pairs[3]], [(90, 50), (90, 10), (50, 10)]))
    figures = list(train_reward(scalar, ranked, ranked, settings(loss="regression", steps=80)))
    assert figures[-1]["eval_loss"] < 0.01
    chosen, rejected = score_all(scalar, ranked)
    best, middle, worst = chosen[0].item(), rejected[0].item(), rejected[1].item()
    assert (best - middle) / (middle - worst) == pytest.approx(1.0, abs=0.2)
    assert best - worst == pytest.approx(80 / math.sqrt((4 * 40**2 + 0) / 6), abs=0.2)


def test_regression_without_ratings_says_how_many_are_missing(pairs: list[Pair]) -> None:
    """And what to do, before any network is there; so does a set of ratings that are all the same."""
    mixed = [*rated(pairs[:2], [(4, 2), (3, 1)]), *pairs[2:]]
    with pytest.raises(ValueError, match=r"regression, but 3 of 5 pairs have no ratings; give every ranking a field"):
        check_pairs(mixed, settings(loss="regression"))
    check_pairs(mixed, settings())
    same = group_pairs(rated(pairs[:2], [(4, 4), (4, 4)]))
    with pytest.raises(ValueError, match="every rating is 4"):
        make_loss(same, settings(loss="regression"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "encoder", "backbone": "gpt2"}, "backbone, adapter: only with kind: scalar"),
        ({"kind": "encoder", "adapter": {}}, "backbone, adapter: only with kind: scalar"),
        ({"encoder": "bert"}, "encoder, freeze_encoder: only with kind: encoder"),
        ({"freeze_encoder": True}, "encoder, freeze_encoder: only with kind: encoder"),
        ({"loss": "regression", "margin": 0.1}, "margin, label_smoothing, centring: only with loss: pairwise"),
        ({"loss": "regression", "label_smoothing": 0.1}, "only with loss: pairwise"),
        ({"loss": "regression", "centring": 0.1}, "only with loss: pairwise"),
        ({"uncertainty_penalty": 0.5}, "uncertainty_penalty: only with members: 2 or more"),
    ],
)
def test_an_option_that_nothing_would_heed_is_an_error(fields: dict[str, object], message: str) -> None:
    """Where it belongs is said; in its place it is accepted."""
    with pytest.raises(ValueError, match=message):
        settings(**fields)
    settings(backbone="gpt2", adapter={}, margin=0.1, label_smoothing=0.1, members=2, uncertainty_penalty=0.5)
    settings(kind="encoder", encoder="bert", freeze_encoder=True, loss="regression")


def test_rankings_that_share_a_number_but_not_a_prompt_stay_apart() -> None:
    """Two files may number their rankings alike; a completion is scored with its own prompt."""
    rows = [{"prompt": prompt, "chosen": "a", "rejected": "b", "annotator": "x", "ranking": "1"} for prompt in "pq"]
    assert [group.prompt for group in group_pairs([Pair.model_validate(row) for row in rows])] == ["p", "q"]


def test_a_bad_batch_is_skipped(
    scalar: ScalarReward, pairs: list[Pair], poison: Callable[[torch.nn.Module, int], None]
) -> None:
    """The second of three steps moves no weight and tells no loss; its pairs are kept; with none allowed it stops."""
    groups, kept = group_pairs(pairs), []
    poison(scalar.policy.model.get_input_embeddings(), 2)
    bad = BadBatches("reward", 1, lambda batch: kept.append(batch) or "here")
    ends, rows = [], []
    for row in train_reward(scalar, groups, [], settings(steps=3), bad):
        rows.append(row)
        ends.append(parameters_to_vector(scalar.parameters()).detach().clone())
    assert [{"loss", "accuracy"} <= row.keys() for row in rows] == [True, False, True]
    assert torch.equal(ends[1], ends[0])
    assert ends[2].isfinite().all()
    assert not torch.equal(ends[2], ends[1])
    assert (kept[0]["step"], kept[0]["found"]) == (2, "the loss is nan")
    assert sorted(pair["chosen"] for pair in kept[0]["pairs"]) == sorted(pair.chosen for pair in pairs)
    poison(scalar.policy.model.get_input_embeddings(), 1)
    with pytest.raises(ValueError, match=r"the loss is nan; batches of reward .* reward.max_bad_batches allows 0"):
        list(train_reward(scalar, groups, [], settings(max_bad_batches=0)))
