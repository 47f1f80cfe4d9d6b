"""One PPO update: several epochs over one set of rollouts, in minibatches and micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlhf.batches import response_states
from rlhf.heads import learn_tokens
from rlhf.logprobs import kl_estimate, token_statistics
from rlhf.masking import masked_mean
from rlhf.models import computes_in_float32
from rlhf.ppo.critic import Critic
from rlhf.ppo.experience import Experience
from rlhf.ppo.losses import policy_losses, probability_ratio, value_losses
from rlhf.settings.policy import PolicySettings

LearnGeneral = Callable[[int, float], float]


class Actors(NamedTuple):
    """The networks that learn, with their optimizers; only PPO has a critic."""

    policy: nn.Module
    critic: Critic | None
    policy_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer | None


def update(
    actors: Actors,
    experience: Experience,
    settings: PolicySettings,
    move_policy: bool,
    generator: torch.Generator,
    learn_general: LearnGeneral | None = None,
) -> dict[str, float]:
    """Learns from one set of rollouts, in place; returns the masked diagnostics, averaged over its steps.

    Epochs end early once the approximate KL (k3, nats per token) between old and new policy passes
    `settings.update_kl_ceiling`.

    Args:
        actors: what learns.
        experience: what was sampled.
        settings: epochs, minibatches, losses and their weights.
        move_policy: False while the critic warms up.
        generator: draws the minibatches.
        learn_general: adds the gradient of the language-modelling loss on so many general examples, times a weight,
            here `settings.ptx_coefficient`, and returns the loss, nats per token (PPO-ptx; Ouyang et al. 2022,
            equation 2).

    Raises:
        RuntimeError: the first ratios are not 1, so the sampled logprobs are not the policy's own.
    """
    steps: list[dict[str, float]] = []
    for index in _minibatches(len(experience.logprobs), settings, generator):
        rows = experience.rows(index)
        steps.append(_step(actors, rows, settings, move_policy, learn_general, first=not steps))
        ceiling = settings.update_kl_ceiling
        if move_policy and ceiling is not None and steps[-1]["approx_kl_k3"] > ceiling:
            break
    averages = {key: sum(step[key] for step in steps) / len(steps) for key in steps[0]}
    return {**averages, "update_steps": float(len(steps))}


def _minibatches(rows: int, settings: PolicySettings, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(settings.epochs):
        yield from torch.randperm(rows, generator=generator).chunk(settings.minibatches)


def _step(
    actors: Actors,
    rows: Experience,
    settings: PolicySettings,
    move_policy: bool,
    learn_general: LearnGeneral | None,
    first: bool,
) -> dict[str, float]:
    """One optimizer step of the networks, on the mean loss over the step's tokens."""
    tokens = int(rows.batch.response_mask.sum())
    size = settings.micro_batch_size or len(rows.logprobs)
    sums: dict[str, float] = {}
    for index in torch.arange(len(rows.logprobs)).split(size):
        part = rows.rows(index)
        mask = part.batch.response_mask
        share = int(mask.sum()) / tokens
        for loss, averaged in _losses(actors, part, settings, tokens, move_policy):
            if loss.requires_grad:  # the policy's does not while the critic warms up
                loss.backward()
            for key, values in averaged.items():
                sums[key] = sums.get(key, 0.0) + share * float(masked_mean(values.detach(), mask))
            if first and "ratio" in averaged:
                _check_ratio(float(torch.where(mask, averaged["ratio"] - 1.0, 0.0).abs().max()), actors.policy)
    if move_policy and learn_general is not None:
        sums["general_loss"] = learn_general(len(rows.logprobs), settings.ptx_coefficient)
    if actors.critic is not None and actors.critic_optimizer is not None:
        sums["critic_grad_norm"] = _apply(actors.critic, actors.critic_optimizer, settings.max_grad_norm)
    sums["grad_norm"] = _apply(actors.policy, actors.policy_optimizer, settings.max_grad_norm) if move_policy else 0.0
    return sums


def _check_ratio(error: float, policy: nn.Module) -> None:
    """Before anything has moved every ratio is 1, but for rounding, which in bfloat16 is coarse."""
    if not error <= (1e-2 if computes_in_float32(policy) else 0.5):  # written so that a NaN is refused too
        raise RuntimeError(
            f"at the first minibatch a probability ratio is off 1 by {error:.3g}: the policy that scores is not the "
            "one that sampled; look for dropout, an unmerged adapter or a warped sampler"
        )


def _losses(
    actors: Actors, rows: Experience, settings: PolicySettings, tokens: int, move_policy: bool
) -> Iterator[tuple[Float[Tensor, ""], dict[str, Float[Tensor, "B T"]]]]:
    """Some rows' share of the loss L_clip + c₁·L_vf − c₂·S (Schulman et al. 2017, equation 9), and diagnostics.

    Without a critic c₁ is 0. L_vf of a critic with a network of its own comes by itself, once the rest has been gone
    back through: the activations of both are never held at once.

    Args:
        actors: the policy's head gets its gradients here, all else when the losses are gone back through.
        rows: a micro-batch.
        settings: of the losses and their weights.
        tokens: of the whole step, over which the loss is a mean.
        move_policy: False while the critic warms up.
    """
    mask, critic = rows.batch.response_mask, actors.critic
    states, loss, averaged = _policy_loss(actors.policy, rows, settings, tokens, move_policy)
    if critic is not None and critic.backbone is not None:
        yield loss, averaged
        loss, averaged = torch.zeros_like(loss), {}
    if critic is not None:
        losses = value_losses(critic(rows.batch, states), rows.values, rows.returns, settings.value_clip)
        loss = loss + settings.value_coefficient * torch.where(mask, losses, 0.0).sum() / tokens
        averaged["value_loss"] = losses
    yield loss, averaged


def _policy_loss(
    policy: nn.Module, rows: Experience, settings: PolicySettings, tokens: int, move: bool
) -> tuple[Float[Tensor, "B T H"], Float[Tensor, ""], dict[str, Float[Tensor, "B T"]]]:
    """The policy's states, L_clip − c₂·S for what lies below its head, and diagnostics."""
    old_logprobs, advantages = rows.logprobs.flatten(), rows.advantages.flatten()
    losses = partial(policy_losses, clip=settings.clip, dual_clip=settings.dual_clip)

    def of_tokens(measured: tuple[Tensor, ...], places: Tensor) -> Tensor:
        logprobs, entropy = measured
        total = losses(probability_ratio(logprobs, old_logprobs[places]), advantages[places])
        if settings.entropy_coefficient > 0:
            total = total - settings.entropy_coefficient * entropy
        return total.sum() / tokens

    measure = partial(token_statistics, temperature=settings.temperature)
    with torch.set_grad_enabled(move):
        states = response_states(policy, rows.batch)
        loss, (logprobs, entropy) = learn_tokens(policy, states, rows.batch, measure, of_tokens)
    ratio = probability_ratio(logprobs, rows.logprobs)
    averaged = {
        "policy_loss": losses(ratio, rows.advantages),
        "entropy": entropy,
        "ratio": ratio,
        "clip_fraction": ((ratio - 1.0).abs() > settings.clip).float(),
        **{f"approx_kl_{name}": kl_estimate(rows.logprobs, logprobs, name) for name in ("k1", "k2", "k3")},
    }
    return states, loss, averaged


def _apply(network: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    norm = float(nn.utils.clip_grad_norm_(network.parameters(), max_norm))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
