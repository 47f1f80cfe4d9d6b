"""An exactly solvable case: two tokens at most over eight words, so that every completion can be counted.

By enumeration the objective J(π) = E[R] − β·KL(π ‖ π_ref), its gradient and its optimum are known. The optimum is
π*(y|x) ∝ π_ref(y|x)·exp(R(y)/β), with J* = β·log Σ_y π_ref(y|x)·exp(R(y)/β). GRPO's R is in units of its deviation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn.utils import parameters_to_vector

from rlhf.batches import make_batch
from rlhf.heads import response_logprobs
from rlhf.models import Policy
from rlhf.ppo.advantages import log_derivative_coefficients
from rlhf.ppo.critic import Critic
from rlhf.ppo.trainer import PpoTrainer
from rlhf.ppo.update import update
from rlhf.settings.policy import PolicySettings

EOS, WORDS = 1, range(8)
BETA = 0.5
GRPO_BETA = 1.0
"""In units of the scores' deviation, which falls as the policy learns: with less there is no optimum but one word."""
ALGORITHMS = ("ppo", "reinforce", "rloo", "grpo")
PENALTIES = ({"in": "reward", "estimator": "k1"}, {"in": "loss", "estimator": "k2"}, {"in": "loss", "estimator": "k3"})
NAMES = [f"{each['estimator']}-{each['in']}" for each in PENALTIES]


def objective(logprobs: torch.Tensor, ref_logprobs: torch.Tensor, rewards: torch.Tensor, beta: float) -> torch.Tensor:
    """E[R] − β·KL of a distribution over outcomes that are all listed."""
    probabilities = logprobs.exp()
    return (probabilities * (rewards - beta * (logprobs - ref_logprobs))).sum()


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    # .4·1 + .3·0 + .2·0 + .1·.3 = .43; .8·1 + .1·0 + .05·0 + .05·.3 = .815
    [((0.4, 0.3, 0.2, 0.1), 0.43), ((0.8, 0.1, 0.05, 0.05), 0.815)],
)
def test_the_expected_reward_by_hand(probabilities: tuple[float, ...], expected: float) -> None:
    """Without a KL term the objective is the expected reward."""
    logprobs = torch.tensor(probabilities, dtype=torch.float64).log()
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.3], dtype=torch.float64)
    assert objective(logprobs, logprobs, rewards, 0.0).item() == pytest.approx(expected, abs=1e-12)


def test_the_gradients_coefficient_by_hand() -> None:
    """1 − .01·(1 + log .6 − log .5) = 1 − .01·1.18232 = .98818; at the reference it is R − β."""
    ratios = torch.tensor([math.log(0.6) - math.log(0.5), 0.0])
    found = log_derivative_coefficients(torch.ones(2), ratios, 0.01)
    torch.testing.assert_close(found, torch.tensor([0.988177, 0.99]), atol=1e-6, rtol=0)


def test_the_coefficient_is_the_derivative_of_the_objective() -> None:
    """∂J/∂θ = Σ_y π(y)·∇log π(y)·coefficient(y), against autograd through every outcome."""
    draw = torch.Generator().manual_seed(3)
    logits, reference, rewards = (torch.randn(6, generator=draw, dtype=torch.float64) for _ in range(3))
    logits.requires_grad_(True)
    logprobs, ref_logprobs = logits.log_softmax(0), reference.log_softmax(0)
    (exact,) = torch.autograd.grad(objective(logprobs, ref_logprobs, rewards, 0.3), logits, retain_graph=True)
    coefficients = log_derivative_coefficients(rewards, (logprobs - ref_logprobs).detach(), 0.3)
    (ours,) = torch.autograd.grad((logprobs.exp().detach() * coefficients * logprobs).sum(), logits)
    torch.testing.assert_close(ours, exact, atol=1e-12, rtol=0)


class Paid:
    """A scorer with a price for each word; a text is worth the sum of its words."""

    prices = dict(zip("abcde", (0.9, -0.6, 0.3, -0.2, 0.5), strict=True))

    def score(self, prompts: Sequence[object], completions: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        return torch.tensor([sum(self.prices[word] for word in text.split()) for text in completions])


class Indifferent(Paid):
    """A scorer that pays for nothing, so that the KL alone teaches."""

    prices = dict.fromkeys("abcde", 0.0)


class Outcomes(NamedTuple):
    """Every completion of a prompt that the sampler can draw, and what it is worth."""

    responses: list[list[int]]
    rewards: torch.Tensor


def outcomes(policy: Policy, longest: int) -> Outcomes:
    """EOS at once, or words up to the limit."""
    done: list[list[int]] = []
    open_: list[list[int]] = [[]]
    for _ in range(longest):
        open_ = [[*row, token] for row in open_ for token in WORDS]
        done += [row for row in open_ if row[-1] == EOS]
        open_ = [row for row in open_ if row[-1] != EOS]
    responses = done + open_
    return Outcomes(responses, Paid().score([], [policy.decode(row) for row in responses]))


def exact_logprobs(policy: Policy | None, prompt: str, responses: list[list[int]]) -> torch.Tensor:
    """log π(y|x) of every completion."""
    batch = make_batch([policy.encode_prompt(prompt)] * len(responses), responses)
    return response_logprobs(policy.model, batch).sum(1)


@pytest.fixture
def trainer_of(speller: Policy, clone: Callable[[Policy], Policy]) -> Callable[..., PpoTrainer]:
    """A trainer of an algorithm whose policy may start apart from its reference."""

    def build(algorithm: str, prompts: Sequence[str], **fields: object) -> PpoTrainer:
        defaults = {
            "algorithm": algorithm,
            "kl": {"coefficient": BETA},
            "critic_warmup": 0,
            "gae_lambda": 1.0,
            "unfinished": "reduce",  # the limit is the world's end here, not a fault
            "unfinished_score": 0.0,
            "epochs": 1,
            "minibatches": 1,
            "max_grad_norm": 1e9,
        }
        settings = PolicySettings.model_validate(defaults | fields)
        critic = Critic(speller.model.base_model, speller.hidden) if algorithm == "ppo" else None
        return PpoTrainer(
            policy=clone(speller),
            reference=clone(speller),
            critic=critic,
            scorer=Paid(),
            prompts=prompts,
            settings=settings,
        )

    return build


def sampled_gradient(trainer: PpoTrainer, prompts: Sequence[str]) -> torch.Tensor:
    """One batch's estimate of ∇J: what a step at rate 1 adds to the weights, with the loss's own scale undone."""
    weights = list(trainer.policy.model.parameters())
    before = torch.cat([weight.detach().flatten().clone() for weight in weights])
    start = copy.deepcopy(trainer.policy.model.state_dict())
    experience, figures = trainer.sample_experience(prompts)
    actors = trainer.actors._replace(policy_optimizer=torch.optim.SGD(weights, lr=1.0))
    update(actors, experience, trainer.settings, True, trainer.generator)
    moved = torch.cat([weight.detach().flatten() for weight in weights]) - before
    trainer.policy.model.load_state_dict(start)
    mask = experience.batch.response_mask
    scale = mask.sum() / len(mask)  # a loss per token, where the objective is one per completion
    if trainer.settings.algorithm == "ppo":
        scale = scale * figures["advantage_std"]  # whitened advantages
    return scale * moved


def units_of_scores(algorithm: str, probabilities: torch.Tensor, rewards: torch.Tensor) -> torch.Tensor:
    """What GRPO divides scores by: their deviation under the policy; 1 for the others."""
    if algorithm != "grpo":
        return torch.ones(())
    mean = (probabilities * rewards).sum()
    return (probabilities * (rewards - mean).square()).sum().sqrt()


def shake(policy: Policy, size: float, draw: torch.Generator) -> None:
    """Moves every weight by a little noise."""
    with torch.no_grad():
        for weight in policy.model.parameters():
            weight.add_(size * torch.randn(weight.shape, generator=draw))


def exact_gradient(policy: Policy, figure: torch.Tensor) -> torch.Tensor:
    """By autograd through every outcome, as one vector."""
    return torch.cat([part.flatten() for part in torch.autograd.grad(figure, list(policy.model.parameters()))])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_sampled_gradients_are_the_true_one_within_their_error(
    trainer_of: Callable[..., PpoTrainer], algorithm: str
) -> None:
    """Forty batches, away from the reference: along the true gradient and twenty random directions, four errors."""
    prompts = ["a"] if algorithm == "grpo" else ["a", "b c"]
    completions = 256 // len(prompts) if algorithm in ("grpo", "ppo", "reinforce") else 4
    trainer = trainer_of(
        algorithm,
        prompts,
        iterations=1,
        prompts_per_iteration=len(prompts),
        completions=completions,
        max_new_tokens=2,
        critic_learning_rate=1e-12,  # the critic goes on saying 0
    )
    draw = torch.Generator().manual_seed(11)
    shake(trainer.policy, 0.1, draw)
    total = torch.zeros(())
    for prompt in prompts:
        listed = outcomes(trainer.policy, 2)
        ours = exact_logprobs(trainer.policy, prompt, listed.responses)
        theirs = exact_logprobs(trainer.networks.reference, prompt, listed.responses).detach()
        assert ours.exp().sum().item() == pytest.approx(1.0, abs=1e-4)
        units = units_of_scores(algorithm, ours.exp().detach(), listed.rewards)
        total = total + objective(ours, theirs, listed.rewards / units, BETA) / len(prompts)
    exact = exact_gradient(trainer.policy, total)

    repeats = 32 if algorithm == "rloo" else 1
    found = torch.stack([sampled_gradient(trainer, prompts * repeats) for _ in range(40)])
    directions = torch.stack([exact, *torch.randn(20, len(exact), generator=draw)])
    directions = directions / directions.norm(dim=1, keepdim=True)
    estimates = found @ directions.T  # [40, 21]
    error = estimates.std(0) / math.sqrt(len(found))
    truth = directions @ exact
    assert truth[0] > 15 * error[0]  # the test has the power to see a wrong sign, scale or baseline
    assert ((estimates.mean(0) - truth).abs() < 4 * error).all()


@pytest.mark.parametrize("kl", PENALTIES, ids=NAMES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_penalty_has_the_whole_gradient_of_the_kl(
    trainer_of: Callable[..., PpoTrainer], algorithm: str, kl: dict[str, str]
) -> None:
    """Scores that are all 0, two tokens, a KL of a half: the step of 4096 completions, projected on −β·∇KL, is 1.

    So it is for k1 in the reward, and for k2 and k3 in the loss; k2 and k3 in the reward came to .004 and −.15.
    """
    trainer = trainer_of(
        algorithm,
        ["a"],
        iterations=1,
        prompts_per_iteration=1,
        completions=4096,
        max_new_tokens=2,
        critic_learning_rate=1e-12,
        kl={"coefficient": BETA, **kl},
    )
    trainer.scorer = Indifferent()
    shake(trainer.policy, 0.12, torch.Generator().manual_seed(11))
    listed = outcomes(trainer.policy, 2)
    ours = exact_logprobs(trainer.policy, "a", listed.responses)
    theirs = exact_logprobs(trainer.networks.reference, "a", listed.responses).detach()
    divergence = (ours.exp() * (ours - theirs)).sum()
    exact = exact_gradient(trainer.policy, -BETA * divergence)
    assert divergence.item() == pytest.approx(0.5, abs=0.1)
    share = sampled_gradient(trainer, ["a"]) @ exact / exact.square().sum()
    assert share.item() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_sampled_gets_the_same_gradient_of_either_place(
    trainer_of: Callable[..., PpoTrainer], algorithm: str
) -> None:
    """One step on the same completions, whatever the discount and the whitening: k1 in the reward, k2, k3 in the loss.

    What is penalised is logged by its name, in nats per token.
    """
    fields: dict[str, Any] = {"iterations": 1, "prompts_per_iteration": 2, "completions": 16, "max_new_tokens": 2}
    if algorithm == "ppo":
        fields |= {"whiten_rewards": True, "gae_lambda": 0.7, "discount": 0.9}
    steps, logged = [], []
    for kl in PENALTIES:
        trainer = trainer_of(algorithm, ["a", "b c"], kl={"coefficient": BETA, **kl}, **fields)
        shake(trainer.policy, 0.1, torch.Generator().manual_seed(11))
        before = parameters_to_vector(trainer.policy.model.parameters()).detach().clone()
        experience, _ = trainer.sample_experience(["a", "b c"])
        weights = list(trainer.policy.model.parameters())
        actors = trainer.actors._replace(policy_optimizer=torch.optim.SGD(weights, lr=1.0))
        figures = update(actors, experience, trainer.settings, True, trainer.generator)
        steps.append(parameters_to_vector(weights).detach() - before)
        logged.append({name: value for name, value in figures.items() if name in ("kl_k1", "kl_k2", "kl_k3")})
    for step in steps[1:]:
        torch.testing.assert_close(step, steps[0], atol=1e-5, rtol=1e-4)
    d, mask = experience.logprobs - experience.ref_logprobs, experience.batch.response_mask
    assert [{*each} for each in logged] == [set(), {"kl_k2"}, {"kl_k3"}]
    assert logged[1]["kl_k2"] == pytest.approx((d.square() / 2)[mask].mean().item(), rel=1e-4)
    assert logged[2]["kl_k3"] == pytest.approx(((-d).exp() - 1 + d)[mask].mean().item(), rel=1e-3)


@pytest.mark.parametrize("kl", PENALTIES, ids=NAMES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_reaches_the_known_optimum(
    trainer_of: Callable[..., PpoTrainer], algorithm: str, kl: dict[str, str]
) -> None:
    """One token, one prompt: the policy ends at π_ref·exp(R/β), and J at β·log Σ π_ref·exp(R/β).

    Of GRPO with R in its deviations under that very policy, which repetition finds.
    """
    beta = GRPO_BETA if algorithm == "grpo" else BETA
    # In the second epoch a loss knows what the first has moved, so it gets there in fewer steps.
    iterations, completions, rate = (80, 64, 2e-2) if kl["in"] == "reward" else (30, 128, 4e-2)
    trainer = trainer_of(
        algorithm,
        ["a"],
        iterations=iterations,
        prompts_per_iteration=1,
        completions=completions,
        max_new_tokens=1,
        learning_rate=rate,
        critic_learning_rate=rate,
        epochs=2,
        kl={"coefficient": beta, **kl},
    )
    listed = outcomes(trainer.policy, 1)
    with torch.no_grad():
        reference = best = exact_logprobs(trainer.policy, "a", listed.responses)
        for _ in range(50):
            rewards = listed.rewards / units_of_scores(algorithm, best.exp(), listed.rewards)
            best = (reference + rewards / beta).log_softmax(0)
        optimum = (beta * (reference + rewards / beta).logsumexp(0)).item()
        assert objective(best, reference, rewards, beta).item() == pytest.approx(optimum, abs=1e-5)
        start = objective(reference, reference, rewards, beta).item()
    for _ in trainer.train():
        pass
    with torch.no_grad():
        found = exact_logprobs(trainer.policy, "a", listed.responses)
    reached = objective(found, reference, rewards, beta).item()
    assert optimum - start > 0.1
    assert reached <= optimum + 1e-5
    assert optimum - reached < 0.005 * (optimum - start)
    assert 0.5 * (found.exp() - best.exp()).abs().sum() < 0.02
