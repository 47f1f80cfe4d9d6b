"""The update: its gradient against a naive loop, micro-batches, the guards, and the critic's warm-up."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from rlhf.batches import Batch, make_batch, response_states
from rlhf.finite import NotFiniteError
from rlhf.heads import response_logits, response_logprobs
from rlhf.logprobs import token_logprobs
from rlhf.models import Policy
from rlhf.ppo.critic import Critic
from rlhf.ppo.experience import Experience
from rlhf.ppo.losses import policy_losses, value_losses
from rlhf.ppo.update import Actors, update
from rlhf.settings.policy import PolicySettings


def settings(**fields: object) -> PolicySettings:
    """One epoch of one minibatch, with clipping of gradients far away."""
    defaults = {"iterations": 1, "prompts_per_iteration": 6, "epochs": 1, "minibatches": 1, "max_grad_norm": 1e9}
    return PolicySettings.model_validate(defaults | fields)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def weights(actors: Actors) -> tuple[torch.Tensor, torch.Tensor]:
    """All weights of the policy and of the critic, each as one vector."""
    return tuple(  # type: ignore[return-value]
        torch.cat([weight.detach().flatten().clone() for weight in network.parameters()])
        for network in (actors.policy, actors.critic)
    )


def shifted(experience: Experience) -> Experience:
    """The same rollouts as if sampled by a policy and judged by a critic somewhat apart, so that clips act."""
    draw = torch.Generator().manual_seed(7)
    mask = experience.batch.response_mask
    noise = [torch.where(mask, 0.4 * torch.randn(mask.shape, generator=draw), 0.0) for _ in range(2)]
    return experience._replace(logprobs=experience.logprobs + noise[0], values=experience.values + noise[1])


def naive_loss(actors: Actors, experience: Experience, params: PolicySettings) -> torch.Tensor:
    """Equation 9, token by token from forwards of one row without padding, over all tokens of the step."""
    total, tokens = torch.zeros(()), 0
    batch, critic = experience.batch, actors.critic
    assert critic is not None
    assert critic.backbone is not None
    for row in range(len(batch.input_ids)):
        ids = batch.input_ids[row][batch.attention_mask[row]]
        length = int(batch.response_mask[row].sum())
        start = len(ids) - length
        logits = actors.policy(ids[None]).logits[0] / params.temperature
        hidden = critic.backbone(ids[None]).last_hidden_state[0]
        for step in range(length):
            distribution = torch.distributions.Categorical(logits=logits[start + step - 1])
            ratio = (distribution.log_prob(ids[start + step]) - experience.logprobs[row, step]).exp()
            value = critic.head(hidden[start + step - 1])[0]
            old, target = experience.values[row, step], experience.returns[row, step]
            advantage = experience.advantages[row, step]
            near = min(max(value, old - params.value_clip), old + params.value_clip)
            total = total + max(-advantage * ratio, -advantage * ratio.clamp(1 - params.clip, 1 + params.clip))
            total = total + params.value_coefficient * 0.5 * max((value - target) ** 2, (near - target) ** 2)
            total = total - params.entropy_coefficient * distribution.entropy()
            tokens += 1
    return total / tokens


@pytest.mark.parametrize("micro", [None, 1, 4])
def test_a_step_is_the_gradient_of_the_naive_loss(
    actors: Actors, experience: Experience, micro: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one go, row by row, or four and two: at rate 1 both networks move by minus the loop's gradient."""
    experience, params = shifted(experience), settings(entropy_coefficient=0.05, value_coefficient=0.7, temperature=0.8)
    oracle = copy.deepcopy(actors[:2])
    naive_loss(Actors(*oracle, None, None), experience, params).backward()  # type: ignore[arg-type]
    expected = tuple(
        torch.cat([weight.grad.flatten() for weight in network.parameters() if weight.grad is not None])
        for network in oracle
    )
    before = weights(actors)
    # Shifted logprobs make ratios that differ from 1, which the guard is there to refuse.
    monkeypatch.setattr("rlhf.ppo.update.check_ratio", lambda error, policy: None)
    update(
        actors,
        experience,
        settings(**params.model_dump(by_alias=True) | {"micro_batch_size": micro}),
        True,
        generator(),
    )
    for start, now, gradient in zip(before, weights(actors), expected, strict=True):
        torch.testing.assert_close(start - now, gradient, atol=2e-5, rtol=1e-4)


def test_the_first_ratios_are_one(actors: Actors, experience: Experience) -> None:
    """Then the mean ratio is 1, nothing is clipped, the KL is 0 and the loss is minus the mean advantage."""
    mask = experience.batch.response_mask
    figures = update(actors, experience, settings(), True, generator())
    assert figures["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert figures["approx_kl_k3"] == pytest.approx(0.0, abs=1e-6)
    assert figures["clip_fraction"] == 0.0
    assert figures["policy_loss"] == pytest.approx(-experience.advantages[mask].mean().item(), abs=1e-5)
    expected = value_losses(experience.values, experience.values, experience.returns, 0.2)[mask].mean()
    assert figures["value_loss"] == pytest.approx(expected.item(), abs=1e-5)
    assert figures["update_steps"] == 1.0


def test_diagnostics_are_averaged_over_tokens_and_not_over_padding(actors: Actors, experience: Experience) -> None:
    """At the second epoch, after a step, the figures are those of a plain count over the response tokens."""
    params = settings(epochs=2, update_kl_ceiling=None, learning_rate=1.0)
    one = copy.deepcopy(actors[:2])
    optimizers = [torch.optim.SGD(network.parameters(), lr=1.0) for network in one]
    first = update(Actors(*one, *optimizers), experience, settings(), True, generator())
    figures = update(
        actors, experience, settings(**params.model_dump(by_alias=True) | {"micro_batch_size": 4}), True, generator()
    )
    with torch.no_grad():
        logits = response_logits(one[0], experience.batch)
        mask = experience.batch.response_mask
        ratio = (token_logprobs(logits, experience.batch.response_ids) - experience.logprobs)[mask].exp()
        entropy = torch.distributions.Categorical(logits=logits).entropy()[mask]
        losses = policy_losses(ratio[None], experience.advantages[mask][None], 0.2)
    second = {
        "ratio": ratio.mean(),
        "approx_kl_k1": -ratio.log().mean(),
        "approx_kl_k2": ratio.log().square().mean() / 2,
        "approx_kl_k3": (ratio - 1 - ratio.log()).mean(),
        "clip_fraction": ((ratio - 1).abs() > 0.2).float().mean(),
        "entropy": entropy.mean(),
        "policy_loss": losses.mean(),
    }
    assert second["clip_fraction"] > 0.05
    for name, value in second.items():
        assert figures[name] == pytest.approx((first[name] + value.item()) / 2, rel=1e-3, abs=1e-4), name


def test_micro_batches_change_no_weight_over_several_minibatches(actors: Actors, experience: Experience) -> None:
    """Two epochs of three minibatches, whole or row by row: the same weights within rounding."""
    ends = []
    for micro in (None, 1):
        networks = copy.deepcopy(actors[:2])
        optimizers = [torch.optim.SGD(network.parameters(), lr=0.1) for network in networks]
        run = Actors(*networks, *optimizers)
        params = settings(epochs=2, minibatches=3, micro_batch_size=micro, max_grad_norm=1.0, update_kl_ceiling=None)
        figures = update(run, experience, params, True, generator())
        assert figures["update_steps"] == 6.0
        ends.append((weights(run), figures))
    for whole, parts in zip(ends[0][0], ends[1][0], strict=True):
        torch.testing.assert_close(whole, parts, atol=2e-5, rtol=1e-4)
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-3, abs=1e-4)


def test_gradients_are_clipped_to_the_norm_of_params(actors: Actors, experience: Experience) -> None:
    """At rate 1 each network moves by .01 in norm; the figures name the norms before."""
    before = weights(actors)
    figures = update(actors, experience, settings(max_grad_norm=0.01), True, generator())
    for start, now, name in zip(before, weights(actors), ("grad_norm", "critic_grad_norm"), strict=True):
        assert (start - now).norm().item() == pytest.approx(0.01, rel=1e-3)
        assert figures[name] > 0.01


def test_a_policy_tampered_with_after_sampling_is_noticed(actors: Actors, experience: Experience) -> None:
    """A weight that is not the one that sampled makes a first ratio other than 1: the error says so, nothing moved."""
    with torch.no_grad():
        next(actors.policy.parameters()).add_(0.05)
    before = weights(actors)
    with pytest.raises(RuntimeError, match=r"ratio is off 1 by .* the policy that scores is not the one that sampled"):
        update(actors, experience, settings(), True, generator())
    assert all(torch.equal(start, now) for start, now in zip(before, weights(actors), strict=True))


def test_bfloat16_rounds_the_first_ratios_and_is_not_refused(actors: Actors, experience: Experience) -> None:
    """What float32 refuses (a ratio 0.1 off) autocast lets pass, for there it may be rounding."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        update(actors, experience._replace(logprobs=experience.logprobs + 0.1), settings(), True, generator())
    with pytest.raises(RuntimeError, match="off 1"):
        update(actors, experience._replace(logprobs=experience.logprobs + 0.1), settings(), True, generator())


def test_the_critic_warms_up_while_the_policy_stands_still(actors: Actors, experience: Experience) -> None:
    """Without `move_policy` the critic learns and no bit of the policy changes, nor does it hold a gradient."""
    before = weights(actors)
    params = settings(epochs=3, entropy_coefficient=0.1)
    figures = update(actors, experience, params, False, generator())
    policy, critic = weights(actors)
    assert torch.equal(policy, before[0])
    assert not torch.equal(critic, before[1])
    assert figures["grad_norm"] == 0.0
    assert figures["update_steps"] == 3.0
    assert all(weight.grad is None for weight in actors.policy.parameters())


def test_the_critic_comes_nearer_to_its_returns(actors: Actors, experience: Experience) -> None:
    """Ten epochs of warm-up lower the value loss."""
    actors = actors._replace(critic_optimizer=torch.optim.SGD(actors.critic.parameters(), lr=0.02))
    params = settings(value_clip=100.0)
    losses = [update(actors, experience, params, False, generator())["value_loss"] for _ in range(10)]
    assert losses[-1] < 0.8 * losses[0]


def test_an_update_ends_early_past_its_kl_ceiling(actors: Actors, experience: Experience) -> None:
    """The first step at rate 1 goes far; the second sees it and is the last of ten, unless there is no ceiling."""
    free = copy.deepcopy(actors[:2])
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.2) for network in free]
    unbounded = settings(epochs=10, update_kl_ceiling=None)
    every = update(Actors(*free, *optimizers), experience, unbounded, True, generator())
    assert every["update_steps"] == 10.0
    figures = update(actors, experience, settings(epochs=10, update_kl_ceiling=1e-4), True, generator())
    assert figures["update_steps"] == 2.0


def test_every_row_is_in_one_minibatch_of_an_epoch(
    actors: Actors, experience: Experience, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six rows in four minibatches, two epochs: each row twice, in another order the second time."""
    seen: list[int] = []
    original = Experience.rows

    def rows(self: Experience, index: torch.Tensor) -> Experience:
        if len(self.logprobs) == 6:
            seen.extend(index.tolist())
        return original(self, index)

    monkeypatch.setattr(Experience, "rows", rows)
    actors = actors._replace(critic_optimizer=torch.optim.SGD(actors.critic.parameters(), lr=1e-3))
    update(actors, experience, settings(epochs=2, minibatches=4), False, generator())
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    assert seen[:6] != seen[6:]


def test_rows_of_experience_keep_batch_and_figures_together(experience: Experience) -> None:
    """Row 3 and row 1, of every tensor."""
    part = experience.rows(torch.tensor([3, 1]))
    assert isinstance(part.batch, Batch)
    for ours, whole in zip((*part.batch, *part[1:]), (*experience.batch, *experience[1:]), strict=True):
        assert torch.equal(ours, whole[[3, 1]])


def test_a_head_on_the_policy_passes_its_gradient_into_the_trunk(learner: Policy, experience: Experience) -> None:
    """One forward serves both losses: the policy's step is the gradient of the two together."""
    critic = Critic(None, learner.hidden)
    torch.nn.init.normal_(critic.head.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    optimizers = [torch.optim.SGD(network.parameters(), lr=1.0) for network in (learner.model, critic)]
    actors = Actors(learner.model, critic, *optimizers)
    experience = experience._replace(values=torch.zeros_like(experience.values))
    params = settings(value_coefficient=0.7, value_clip=100.0)
    model, head = copy.deepcopy((learner.model, critic.head))
    batch, mask = experience.batch, experience.batch.response_mask
    states = response_states(model, batch)
    logprobs = response_logprobs(model, batch)
    loss = -experience.advantages * (logprobs - experience.logprobs).exp()
    loss = loss + 0.7 * 0.5 * (head(states).squeeze(-1) - experience.returns) ** 2
    (loss[mask].sum() / mask.sum()).backward()
    expected = [torch.cat([weight.grad.flatten() for weight in part.parameters()]) for part in (model, head)]
    before = weights(actors)
    update(actors, experience, params, True, generator())
    for start, now, gradient in zip(before, weights(actors), expected, strict=True):
        torch.testing.assert_close(start - now, gradient, atol=2e-5, rtol=1e-4)


def test_a_network_of_the_critics_own_runs_when_the_policy_is_done(actors: Actors, experience: Experience) -> None:
    """By then every weight of the policy has its gradient, so its activations are gone."""
    done: list[bool] = []

    def look(*_: object) -> None:
        done.append(all(weight.grad is not None for weight in actors.policy.parameters()))

    assert actors.critic is not None
    actors.critic.backbone.get_input_embeddings().register_forward_pre_hook(look)
    update(actors, experience, settings(), True, generator())
    assert done == [True]


def test_without_a_critic_the_policy_alone_learns(learner: Policy, experience: Experience) -> None:
    """REINFORCE and its kin: no value loss, and at the first step the gradient of −Σ A·log π over the tokens."""
    actors = Actors(learner.model, None, torch.optim.SGD(learner.model.parameters(), lr=1.0), None)
    model, mask = copy.deepcopy(learner.model), experience.batch.response_mask
    logprobs = response_logprobs(model, experience.batch)
    (-(experience.advantages * logprobs)[mask].sum() / mask.sum()).backward()
    expected = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    before = torch.cat([weight.detach().flatten().clone() for weight in learner.model.parameters()])
    figures = update(actors, experience, settings(), True, generator())
    after = torch.cat([weight.detach().flatten() for weight in learner.model.parameters()])
    torch.testing.assert_close(before - after, expected, atol=2e-5, rtol=1e-4)
    assert not {"value_loss", "critic_grad_norm"} & figures.keys()


def test_the_pretraining_term_adds_its_weighted_gradient(learner: Policy, experience: Experience) -> None:
    """With advantages of 0, a step is γ times the gradient of the general loss alone, asked for the step's rows."""
    experience = experience._replace(advantages=torch.zeros_like(experience.advantages))
    actors = Actors(learner.model, None, torch.optim.SGD(learner.model.parameters(), lr=1.0), None)
    model, asked = copy.deepcopy(learner.model), []

    def general(network: torch.nn.Module) -> torch.Tensor:
        return -response_logprobs(network, make_batch([[3]], [[4, 1]])).sum() / 2

    def learn(rows: int, weight: float) -> float:
        asked.append(rows)
        loss = general(learner.model)
        (weight * loss).backward()
        return loss.item()

    general(model).backward()
    expected = 0.3 * torch.cat([weight.grad.flatten() for weight in model.parameters()])
    before = torch.cat([weight.detach().flatten().clone() for weight in learner.model.parameters()])
    figures = update(actors, experience, settings(ptx_coefficient=0.3), True, generator(), learn)
    after = torch.cat([weight.detach().flatten() for weight in learner.model.parameters()])
    torch.testing.assert_close(before - after, expected, atol=2e-5, rtol=1e-4)
    assert asked == [6]
    assert figures["general_loss"] == pytest.approx(general(model).item(), abs=1e-6)


def test_a_bad_minibatch_moves_no_network(actors: Actors, experience: Experience) -> None:
    """An advantage that is NaN, in one of two minibatches: it is named with its rows, and the other one is learnt.

    The figures are of that one alone; without leave to skip it is an error, and nothing has moved or holds a gradient.
    """
    advantages = experience.advantages.clone()
    advantages[0, 0] = math.nan
    experience = experience._replace(advantages=advantages)
    start, told = weights(actors), []
    with pytest.raises(NotFiniteError, match="the policy_loss is nan"):
        update(actors, experience, settings(), True, generator())
    assert all(torch.equal(one, other) for one, other in zip(start, weights(actors), strict=True))
    networks = (actors.policy, actors.critic)
    assert all(weight.grad is None for network in networks for weight in network.parameters())
    params = settings(minibatches=2, update_kl_ceiling=None)
    figures = update(
        actors, experience, params, True, generator(), skip=lambda error, rows: told.append((str(error), rows.tolist()))
    )
    assert len(told) == 1
    assert told[0][0] == "the policy_loss is nan"
    assert 0 in told[0][1]
    assert figures["update_steps"] == 1.0
    assert all(math.isfinite(value) for value in figures.values())
    assert all(
        now.isfinite().all() and not torch.equal(one, now) for one, now in zip(start, weights(actors), strict=True)
    )


def test_an_update_of_bad_minibatches_alone_learns_nothing(actors: Actors, experience: Experience) -> None:
    """A critic's return of infinity spoils its loss; the policy, whose part is finite, does not move either."""
    experience = experience._replace(returns=torch.full_like(experience.returns, math.inf))
    start = weights(actors)
    assert update(actors, experience, settings(), True, generator(), skip=lambda *_: None) == {"update_steps": 0.0}
    assert all(torch.equal(one, other) for one, other in zip(start, weights(actors), strict=True))
