"""One PPO update: several epochs over one set of rollouts, in minibatches and micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlhf.batches import response_states
from rlhf.heads import response_statistics
from rlhf.logprobs import kl_estimate
from rlhf.masking import masked_mean
from rlhf.models import computes_in_float32
from rlhf.ppo.critic import Critic
from rlhf.ppo.experience import Experience
from rlhf.ppo.losses import policy_losses, probability_ratio, value_losses
from rlhf.settings import PpoSettings

GeneralLoss = Callable[[int], Iterator[Float[Tensor, ""]]]


class Actors(NamedTuple):
    """The networks that learn, with their optimizers; only PPO has a critic."""

    policy: nn.Module
    critic: Critic | None
    policy_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer | None


def update(
    actors: Actors,
    experience: Experience,
    settings: PpoSettings,
    move_policy: bool,
    generator: torch.Generator,
    general_loss: GeneralLoss | None = None,
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
        general_loss: the parts, micro-batch by micro-batch, of the language-modelling loss on so many general
            examples, nats per token; with it each step adds `settings.ptx_coefficient` times the gradient of their sum
            (PPO-ptx; Ouyang et al. 2022, equation 2).

    Raises:
        RuntimeError: the first ratios are not 1, so the sampled logprobs are not the policy's own.
    """
    steps: list[dict[str, float]] = []
    for index in _minibatches(len(experience.logprobs), settings, generator):
        rows = experience.rows(index)
        steps.append(_step(actors, rows, settings, move_policy, general_loss, first=not steps))
        ceiling = settings.update_kl_ceiling
        if move_policy and ceiling is not None and steps[-1]["approx_kl_k3"] > ceiling:
            break
    averages = {key: sum(step[key] for step in steps) / len(steps) for key in steps[0] if key != "ratio_error"}
    return {**averages, "update_steps": float(len(steps))}


def _minibatches(rows: int, settings: PpoSettings, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(settings.epochs):
        yield from torch.randperm(rows, generator=generator).chunk(settings.minibatches)


def _step(
    actors: Actors,
    rows: Experience,
    settings: PpoSettings,
    move_policy: bool,
    general_loss: GeneralLoss | None,
    first: bool,
) -> dict[str, float]:
    """One optimizer step of the networks; losses are summed over the mask and divided by the step's tokens."""
    tokens = int(rows.batch.response_mask.sum())
    size = settings.micro_batch_size or len(rows.logprobs)
    sums: dict[str, float] = {}
    for index in torch.arange(len(rows.logprobs)).split(size):
        part = rows.rows(index)
        share = int(part.batch.response_mask.sum()) / tokens
        for loss, figures in _losses(actors, part, settings, move_policy):
            if loss.requires_grad:  # the policy's does not while the critic warms up
                (loss / tokens).backward()
            for key, value in figures.items():
                before = sums.get(key, 0.0)
                sums[key] = max(before, value) if key == "ratio_error" else before + share * value
    if first:
        _check_ratio(sums["ratio_error"], actors.policy)
    if move_policy and general_loss is not None:
        sums["general_loss"] = 0.0
        for share_of_loss in general_loss(len(rows.logprobs)):
            (settings.ptx_coefficient * share_of_loss).backward()
            sums["general_loss"] += share_of_loss.item()
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
    actors: Actors, rows: Experience, settings: PpoSettings, move_policy: bool
) -> Iterator[tuple[Tensor, dict[str, float]]]:
    """The summed loss L_clip + c₁·L_vf − c₂·S of some rows (Schulman et al. 2017, equation 9), and diagnostics.

    Without a critic c₁ is 0. L_vf of a critic with a network of its own comes by itself, after the rest has been gone
    back through: the activations of both are never held at once.
    """
    mask, old_logprobs, critic = rows.batch.response_mask, rows.logprobs, actors.critic
    with torch.set_grad_enabled(move_policy):
        states = response_states(actors.policy, rows.batch)
        logprobs, entropy = response_statistics(actors.policy, states, rows.batch, settings.temperature)
    ratio = probability_ratio(logprobs, old_logprobs)
    policy_loss = policy_losses(ratio, rows.advantages, settings.clip, settings.dual_clip)
    total = policy_loss
    if settings.entropy_coefficient > 0:
        total = total - settings.entropy_coefficient * entropy
    averaged = {"policy_loss": policy_loss, "entropy": entropy, "ratio": ratio}
    if critic is not None and critic.backbone is None:
        averaged["value_loss"] = _value_losses(critic, rows, settings, states)
        total = total + settings.value_coefficient * averaged["value_loss"]
    with torch.no_grad():
        averaged["clip_fraction"] = ((ratio - 1.0).abs() > settings.clip).float()
        for estimator in ("k1", "k2", "k3"):
            averaged[f"approx_kl_{estimator}"] = kl_estimate(old_logprobs, logprobs, estimator)
        figures = {name: float(masked_mean(values, mask)) for name, values in averaged.items()}
        figures["ratio_error"] = float(torch.where(mask, ratio - 1.0, 0.0).abs().max())
    yield torch.where(mask, total, 0.0).sum(), figures
    if critic is not None and critic.backbone is not None:
        losses = _value_losses(critic, rows, settings)
        figures = {"value_loss": float(masked_mean(losses.detach(), mask))}
        yield settings.value_coefficient * torch.where(mask, losses, 0.0).sum(), figures


def _value_losses(
    critic: Critic, rows: Experience, settings: PpoSettings, states: Float[Tensor, "B T H"] | None = None
) -> Float[Tensor, "B T"]:
    return value_losses(critic(rows.batch, states), rows.values, rows.returns, settings.value_clip)


def _apply(network: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    norm = float(nn.utils.clip_grad_norm_(network.parameters(), max_norm))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
