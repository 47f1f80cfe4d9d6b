"""The trainer: what it makes of a rollout, the guards at its start and end, and that it raises a reward."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import pytest
import torch
from torch.nn.utils import parameters_to_vector
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf.demonstrations import evaluate_loss
from rlhf.heads import response_logprobs
from rlhf.masking import masked_mean, masked_variance
from rlhf.models import Policy
from rlhf.policy.rollouts import Scorer
from rlhf.ppo.critic import Critic
from rlhf.ppo.trainer import PpoTrainer
from rlhf.settings.policy import PolicySettings

PROMPTS = ["a", "b c", "d", "e a b", "c", "b", "e d", "a a"]


def vector(policy: Policy | None) -> torch.Tensor:
    """All weights as one vector."""
    return parameters_to_vector(policy.model.parameters()).detach()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"critic": "head"},
        {"whiten_rewards": True},
        {"algorithm": "reinforce"},
        {"algorithm": "rloo", "completions": 4, "prompts_per_iteration": 12},
        {"algorithm": "grpo", "completions": 4, "prompts_per_iteration": 12, "iterations": 40},
    ],
)
def test_every_algorithm_raises_the_reward(trainer_of: Callable[..., PpoTrainer], fields: dict[str, object]) -> None:
    """Twenty iterations (forty of GRPO) teach the word that is paid for, and to finish; the KL grows from 0."""
    common = {"iterations": 20, "prompts_per_iteration": 48, "learning_rate": 5e-3, "kl": {"coefficient": 0.02}}
    trainer = trainer_of(**common | fields)
    trainer.prompts = PROMPTS * 6
    rows = list(trainer.train())
    first, last = ([row["reward_mean"] for row in part] for part in (rows[:2], rows[-3:]))
    assert fmean(first) < 0
    assert fmean(last) > fmean(first) + 1.0
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert rows[-1]["kl"] > 0.3
    assert rows[-1]["finished_share"] > rows[0]["finished_share"]
    trainer.check_learnt()


def test_a_stronger_penalty_keeps_the_policy_nearer(trainer_of: Callable[..., PpoTrainer]) -> None:
    """The same run with a KL coefficient of 3 ends with less KL than without one."""
    ends = []
    for coefficient in (0.0, 3.0):
        trainer = trainer_of(
            iterations=8, prompts_per_iteration=32, learning_rate=5e-3, kl={"coefficient": coefficient}
        )
        trainer.prompts = PROMPTS * 4
        ends.append(fmean(row["kl"] for row in list(trainer.train())[-3:]))
    assert ends[1] < 0.5 * ends[0]


def test_the_return_of_the_first_token_is_score_less_the_weighted_kl(
    trainer_of: Callable[..., PpoTrainer], shake: Callable[[Policy | None], None]
) -> None:
    """With γ = λ = 1 every return is the rest of the rewards: at place 0 that is score - β·Σ(logπ - logπ_ref)."""
    trainer = trainer_of(discount=1.0, gae_lambda=1.0, kl={"coefficient": 0.3}, temperature=1.5)
    shake(trainer.reference)
    experience, figures = trainer.sample_experience(PROMPTS * 4)
    batch = experience.batch
    with torch.no_grad():
        ours = response_logprobs(trainer.policy.model, batch, 1.5)
        theirs = response_logprobs(trainer.reference.model, batch, 1.5)
    kl = (ours - theirs).sum(1)
    last = batch.response_ids.gather(1, batch.response_mask.sum(1, keepdim=True) - 1)[:, 0]
    finished = last == trainer.policy.eos_id
    shown = trainer.scorer.shown  # type: ignore[attr-defined]
    scores = torch.where(finished, torch.tensor([1.0 if "a" in text.split() else -1.0 for _, text in shown]), -3.0)
    assert kl.abs().min() > 1e-3
    assert len(scores.unique()) == 3  # a finished good one, a finished bad one and an unfinished one are among them
    torch.testing.assert_close(experience.returns[:, 0], scores - 0.3 * kl, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(experience.logprobs, ours)
    assert figures["kl"] == pytest.approx(kl.mean().item(), abs=1e-5)
    assert figures["reward_mean"] == pytest.approx(scores.mean().item())
    assert figures["finished_share"] == pytest.approx(finished.float().mean().item())
    assert figures["response_tokens"] == pytest.approx(batch.response_mask.sum(1).float().mean().item())


def test_advantages_are_whitened_over_the_response_tokens(trainer_of: Callable[..., PpoTrainer]) -> None:
    """Mean 0 and deviation 1 where the mask counts, 0 elsewhere; the returns are from before the whitening."""
    experience, _ = trainer_of().sample_experience(PROMPTS)
    mask = experience.batch.response_mask
    assert masked_mean(experience.advantages, mask).item() == pytest.approx(0.0, abs=1e-5)
    assert masked_variance(experience.advantages, mask).item() == pytest.approx(1.0, abs=1e-4)
    assert experience.advantages[~mask].abs().sum() == 0.0
    assert not torch.allclose(experience.returns, experience.advantages + experience.values)


def test_micro_batches_change_no_experience(trainer_of: Callable[..., PpoTrainer]) -> None:
    """The same rollouts, logprobs, values and returns, three rows at a time."""
    whole, _ = trainer_of().sample_experience(PROMPTS)
    parts, _ = trainer_of(micro_batch_size=3).sample_experience(PROMPTS)
    assert torch.equal(whole.batch.input_ids, parts.batch.input_ids)
    for ours, theirs in zip(whole[1:], parts[1:], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_temperature_divides_policy_and_reference_alike(
    trainer_of: Callable[..., PpoTrainer], temperature: float
) -> None:
    """At any temperature the first ratios are 1 and the first KL is 0."""
    rows = list(trainer_of(iterations=1, temperature=temperature, minibatches=1, epochs=1).train())
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-5)
    assert rows[0]["ratio"] == pytest.approx(1.0, abs=1e-5)


def test_dropout_is_off_though_the_policy_comes_in_training_mode(
    gpt2: Policy, clone: Callable[[Policy], Policy], wordiness: Scorer
) -> None:
    """GPT-2 has dropout; ratio and KL at the start are exact all the same."""
    policy, reference = clone(gpt2), clone(gpt2)
    critic = Critic(policy.model.base_model, policy.hidden)
    policy.model.train()
    reference.model.train()
    settings = PolicySettings(
        iterations=1, prompts_per_iteration=4, max_new_tokens=5, critic_warmup=0, epochs=1, minibatches=1
    )
    rows = list(
        PpoTrainer(
            policy=policy,
            reference=reference,
            critic=critic,
            scorer=wordiness,
            prompts=["a", "b", "c", "d"],
            settings=settings,
        ).train()
    )
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert rows[0]["ratio"] == pytest.approx(1.0, abs=1e-4)


def test_the_scorer_is_shown_prompts_and_text(trainer_of: Callable[..., PpoTrainer]) -> None:
    """The prompts as they came, and completions without special tokens: its tokenizer may be another."""
    trainer = trainer_of()
    trainer.sample_experience(PROMPTS)
    shown = trainer.scorer.shown  # type: ignore[attr-defined]
    assert [prompt for prompt, _ in shown] == PROMPTS
    assert all("<" not in text for _, text in shown)


def test_a_reference_that_is_not_the_start_is_noticed(
    trainer_of: Callable[..., PpoTrainer], shake: Callable[[Policy | None], None]
) -> None:
    """The KL before the first update must be 0; the error says what is likely wrong, and nothing has moved."""
    trainer = trainer_of()
    shake(trainer.reference)
    before = vector(trainer.policy)
    with pytest.raises(RuntimeError, match=r"before the first update the KL .* expected 0: .* merge the SFT adapter"):
        next(iter(trainer.train()))
    assert torch.equal(vector(trainer.policy), before)


def test_a_policy_that_does_not_sample_what_it_scores_is_noticed(
    trainer_of: Callable[..., PpoTrainer], monkeypatch: pytest.MonkeyPatch, shake: Callable[[Policy | None], None]
) -> None:
    """Weights that change between scoring and the first minibatch make its ratios other than 1."""
    trainer = trainer_of()
    original = trainer.sample_experience

    def tampered(prompts: Sequence[str]) -> object:
        result = original(prompts)
        shake(trainer.policy)
        return result

    monkeypatch.setattr(trainer, "sample_experience", tampered)
    with pytest.raises(RuntimeError, match="ratio is off 1"):
        next(iter(trainer.train()))


def test_the_critic_warms_up_before_the_policy_moves(trainer_of: Callable[..., PpoTrainer]) -> None:
    """Two iterations of warm-up change the critic alone; the third changes the policy, and the reference never."""
    trainer = trainer_of(iterations=3, critic_warmup=2)
    start = vector(trainer.policy)
    critic = copy.deepcopy(trainer.critic.state_dict())
    steps = trainer.train()
    for _ in range(2):
        assert next(steps)["grad_norm"] == 0.0
        assert torch.equal(vector(trainer.policy), start)
    assert any(not torch.equal(weight, critic[name]) for name, weight in trainer.critic.state_dict().items())
    assert next(steps)["grad_norm"] > 0.0
    assert not torch.equal(vector(trainer.policy), start)
    assert torch.equal(vector(trainer.reference), start)


def test_a_run_that_trained_nothing_is_an_error(trainer_of: Callable[..., PpoTrainer]) -> None:
    """All iterations spent on the critic's warm-up leave the policy where it was."""
    trainer = trainer_of(iterations=1, critic_warmup=1)
    list(trainer.train())
    with pytest.raises(ValueError, match=r"changed no weight of the policy; are policy.iterations above"):
        trainer.check_learnt()


def test_a_run_that_went_back_to_its_start_says_why(trainer_of: Callable[..., PpoTrainer]) -> None:
    """Past the ceiling after the first update, only the start lay within: an error that names the ceiling."""
    trainer = trainer_of(iterations=5, learning_rate=0.3, kl={"coefficient": 0.0, "ceiling": 0.01})
    assert len(list(trainer.train())) == 1
    with pytest.raises(ValueError, match=r"went back to where it began: the KL .* above policy.kl.ceiling 0.01; lower"):
        trainer.check_learnt()


def test_one_step_is_enough_to_have_learnt(trainer_of: Callable[..., PpoTrainer]) -> None:
    """Without warm-up a single iteration moves the policy, and the check is content."""
    trainer = trainer_of(iterations=1)
    list(trainer.train())
    trainer.check_learnt()


def test_the_coefficient_adapts_from_one_iteration_to_the_next(trainer_of: Callable[..., PpoTrainer]) -> None:
    """The first KL is 0, so β shrinks by .2·8/100; without a target it stands still."""
    adaptive = trainer_of(kl={"coefficient": 0.1, "target": 1.0, "horizon": 100})
    fixed = trainer_of(kl={"coefficient": 0.1})
    for trainer, second in ((adaptive, 0.1 * (1 - 0.2 * 8 / 100)), (fixed, 0.1)):
        coefficients = [row["kl_coefficient"] for row in trainer.train()]
        assert coefficients == pytest.approx([0.1, second])


def test_both_rates_fall_linearly_over_the_run(trainer_of: Callable[..., PpoTrainer]) -> None:
    """In four iterations: all, ¾, ½ and ¼ of the rate, of the policy as of the critic."""
    trainer = trainer_of(iterations=4, learning_rate=4e-4, critic_learning_rate=8e-4)
    rates = [
        tuple(
            optimizer.param_groups[0]["lr"]
            for optimizer in (trainer.actors.policy_optimizer, trainer.actors.critic_optimizer)
        )
        for _ in trainer.train()
    ]
    assert [rate for pair in rates for rate in pair] == pytest.approx([4e-4, 8e-4, 3e-4, 6e-4, 2e-4, 4e-4, 1e-4, 2e-4])


def test_the_same_seed_gives_the_same_run_bit_for_bit(trainer_of: Callable[..., PpoTrainer]) -> None:
    """Figures and weights; another seed gives others."""
    runs = []
    for seed in (0, 0, 1):
        trainer = trainer_of(seed=seed)
        torch.rand(3)
        runs.append((list(trainer.train()), vector(trainer.policy)))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_a_value_head_shares_the_policys_trunk(trainer_of: Callable[..., PpoTrainer]) -> None:
    """It holds a head's weights alone; warming up it learns while the trunk stands still, later both move."""
    trainer = trainer_of(critic="head", iterations=2, critic_warmup=1, critic_learning_rate=1e-2)
    assert parameters_to_vector(trainer.critic.parameters()).numel() == trainer.policy.hidden + 1
    start, steps = vector(trainer.policy), trainer.train()
    next(steps)
    assert torch.equal(vector(trainer.policy), start)
    assert trainer.critic.head.weight.abs().sum() > 0
    next(steps)
    assert not torch.equal(vector(trainer.policy), start)


@pytest.mark.parametrize("critic", ["head", "network"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_values_are_what_the_critic_says_of_the_whole(
    trainer_of: Callable[..., PpoTrainer], critic: str, precision: torch.dtype
) -> None:
    """A head reads them off the sampler's states, or where a step rounds otherwise off those of the logprobs.

    The policy has no pass of its own for them, micro-batches or not.
    """
    trainer = trainer_of(critic=critic, micro_batch_size=3)
    torch.nn.init.normal_(trainer.critic.head.weight, generator=torch.Generator().manual_seed(0))
    passes: list[int] = []
    layer = next(each for each in trainer.policy.model.modules() if isinstance(each, GradientCheckpointingLayer))
    layer.register_forward_hook(lambda *_: passes.append(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16), torch.no_grad():
        experience, _ = trainer.sample_experience(PROMPTS)
        assert len(passes) == (0 if precision == torch.float32 else 3)
        expected = trainer.networks.values(experience.batch)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(experience.values, expected, atol=1e-5, rtol=0)


def test_the_score_falls_with_length_and_the_reward_shows_it(trainer_of: Callable[..., PpoTrainer]) -> None:
    """The same rollouts; at half a point for each token past one the mean reward is lower by what they are longer."""
    plain, _ = trainer_of().sample_experience(PROMPTS)
    _, free = trainer_of().sample_experience(PROMPTS)
    _, paid = trainer_of(length_penalty=0.5, length_free=1).sample_experience(PROMPTS)
    extra = (plain.batch.response_mask.sum(1) - 1).float().mean().item()
    assert extra > 0.5
    assert paid["reward_mean"] == pytest.approx(free["reward_mean"] - 0.5 * extra, abs=1e-5)


def test_the_pretraining_term_keeps_general_text_likely(trainer_of: Callable[..., PpoTrainer]) -> None:
    """With it, what PPO would forget of other texts gets likelier instead; its loss is among the figures."""
    losses = []
    for coefficient in (0.0, 5.0):
        trainer = trainer_of(iterations=6, learning_rate=1e-2, ptx_coefficient=coefficient)
        trainer.general = [([3, 4], [5, 6, 5, 1]), ([7], [6, 6, 1])]
        rows = list(trainer.train())
        assert ("general_loss" in rows[0]) == (coefficient > 0)
        losses.append(evaluate_loss(trainer.policy, trainer.general))
    assert losses[1] < losses[0] - 1.0


def test_a_run_without_prompts_is_an_error(
    speller: Policy, clone: Callable[[Policy], Policy], wordiness: Scorer
) -> None:
    """There is nothing to sample for."""
    critic = Critic(speller.model.base_model, speller.hidden)
    settings = PolicySettings(iterations=1, prompts_per_iteration=1)
    with pytest.raises(ValueError, match="found no prompt"):
        PpoTrainer(
            policy=clone(speller),
            reference=clone(speller),
            critic=critic,
            scorer=wordiness,
            prompts=[],
            settings=settings,
        )


class Sometimes:
    """Another scorer, whose answer to one call, counted from 1, has a score that is no number."""

    def __init__(self, scorer: Scorer, call: int) -> None:
        self.scorer, self.call, self.calls = scorer, call, 0

    def score(self, prompts: Sequence[object], completions: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        self.calls += 1
        scores = self.scorer.score(prompts, completions)  # type: ignore[arg-type]
        return scores.index_fill(0, torch.tensor([2]), float("nan")) if self.calls == self.call else scores


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_rollouts_with_a_score_that_is_no_number_are_skipped(
    trainer_of: Callable[..., PpoTrainer], algorithm: str
) -> None:
    """The first of three iterations: nothing moves, its completions are kept, and the others learn and are checked."""
    trainer = trainer_of(iterations=3, algorithm=algorithm, completions=2, max_bad_batches=1)
    trainer.prompts = [f"{prompt} " for prompt in trainer.prompts]  # kept as they are asked
    trainer.scorer, kept = Sometimes(trainer.scorer, 1), []
    trainer.bad.keep = lambda batch: kept.append(batch) or "here"
    start, steps = vector(trainer.policy), trainer.train()
    assert next(steps) == {"skipped_batches": 1.0}
    assert torch.equal(vector(trainer.policy), start)
    rows = list(steps)
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert not torch.equal(vector(trainer.policy), start)
    assert (kept[0]["iteration"], kept[0]["found"]) == (0, "of 16 scores of the reward model 1 are not finite (nan)")
    assert [math.isnan(row["score"]) for row in kept[0]["completions"]] == [place == 2 for place in range(16)]
    assert {row["prompt"] for row in kept[0]["completions"]} == {f"{prompt} " for prompt in PROMPTS}
    assert all(isinstance(row["completion"], str) for row in kept[0]["completions"])
    trainer.check_learnt()


def test_one_bad_batch_more_than_allowed_stops_the_run(trainer_of: Callable[..., PpoTrainer]) -> None:
    """At the first here; the policy is what it was, and a run of bad batches alone has learnt nothing and says why."""
    trainer = trainer_of(max_bad_batches=0)
    trainer.scorer = Sometimes(trainer.scorer, 1)
    start = vector(trainer.policy)
    with pytest.raises(
        ValueError, match=r"1 are not finite \(nan\); batches of policy .* policy.max_bad_batches allows 0"
    ):
        list(trainer.train())
    assert torch.equal(vector(trainer.policy), start)
    trainer = trainer_of(iterations=1)
    trainer.scorer = Sometimes(trainer.scorer, 1)
    list(trainer.train())
    with pytest.raises(ValueError, match=r"changed no weight of the policy; batches skipped .* not finite: 1"):
        trainer.check_learnt()


@pytest.mark.parametrize("critic", ["network", "head"])
def test_a_minibatch_that_is_no_number_is_skipped(
    trainer_of: Callable[..., PpoTrainer], critic: str, poison: Callable[[torch.nn.Module, int], None]
) -> None:
    """A forward of the update, of four: it is counted, its completions are kept, and the others are learnt."""
    trainer = trainer_of(iterations=1, critic=critic)
    kept: list[dict[str, Any]] = []
    original = trainer.sample_experience

    def sampled(prompts: Sequence[str]) -> object:
        result = original(prompts)
        poison(trainer.policy.model.get_input_embeddings(), 2)
        return result

    trainer.sample_experience = sampled  # type: ignore[method-assign, assignment]
    trainer.bad.keep = lambda batch: kept.append(batch) or "here"  # type: ignore[arg-type]
    (row,) = trainer.train()
    assert (row["skipped_batches"], row["update_steps"]) == (1.0, 3.0)
    assert all(math.isfinite(value) for value in row.values())
    assert vector(trainer.policy).isfinite().all()
    assert len(kept[0]["completions"]) == 4
    assert {each["prompt"] for each in kept[0]["completions"]} < {*PROMPTS}


def test_skipped_batches_travel_in_the_checkpoint(trainer_of: Callable[..., PpoTrainer]) -> None:
    """Resumed after a bad iteration: the same run, bit for bit, with the same count."""
    runs = []
    for cut in (False, True):
        trainer = trainer_of(iterations=3)
        trainer.scorer = Sometimes(trainer.scorer, 1)
        steps = trainer.train()
        rows = [next(steps)]
        if cut:
            other = trainer_of(iterations=3)
            other.load_state_dict(trainer.state_dict())
            trainer, steps = other, other.train()
        rows += steps
        runs.append((rows, vector(trainer.policy), trainer.bad.count, trainer.idle))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])
    assert runs[0][2:] == runs[1][2:] == (1, 1)


@pytest.mark.parametrize("part", ["policy", "critic"])
def test_what_is_not_finite_is_not_checkpointed(trainer_of: Callable[..., PpoTrainer], part: str) -> None:
    """However it came to be: whoever resumed from it would be stuck."""
    trainer = trainer_of()
    network = trainer.policy.model if part == "policy" else trainer.critic
    with torch.no_grad():
        next(network.parameters())[0, 0] = math.inf
    with pytest.raises(ValueError, match=rf"the checkpoint: {part}: .* is not finite and is not saved"):
        trainer.state_dict()
