"""One PPO update: several epochs over one set of rollouts, in minibatches and micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlhf.batches import response_states
from rlhf.finite import NotFiniteError, check_figures
from rlhf.heads import TokenLoss, Tokens, token_loss
from rlhf.logprobs import token_statistics
from rlhf.memory import MicroBatches
from rlhf.models import computes_in_float32
from rlhf.ppo.critic import Critic
from rlhf.ppo.experience import Experience
from rlhf.ppo.losses import ppo_loss
from rlhf.settings.policy import PolicySettings

LearnGeneral = Callable[[int, float], float]
Skip = Callable[[NotFiniteError, Tensor], None]


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
    skip: Skip | None = None,
    micro: MicroBatches | None = None,
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
        skip: is told of a minibatch with a loss or a gradient that is not finite, and of its rows; no network has made
            a step on it then. None refuses it.
        micro: how many rows go through at once; None takes what the settings say.

    Raises:
        NotFiniteError: there is such a minibatch, and none may be skipped.
        RuntimeError: the first ratios are not 1, so the sampled logprobs are not the policy's own.
    """
    steps: list[dict[str, float]] = []
    micro = micro or MicroBatches("policy", settings.micro_batch_size)
    for index in _minibatches(len(experience.logprobs), settings, generator):
        rows = experience.rows(index)
        try:
            steps.append(_step(actors, rows, settings, move_policy, generator, learn_general, micro, first=not steps))
        except NotFiniteError as error:
            if skip is None:
                raise
            skip(error, index)
            continue
        ceiling = settings.update_kl_ceiling
        if move_policy and ceiling is not None and steps[-1]["approx_kl_k3"] > ceiling:
            break
    averages = {key: sum(step[key] for step in steps) / len(steps) for key in steps[0]} if steps else {}
    return {**averages, "update_steps": float(len(steps))}


def _minibatches(rows: int, settings: PolicySettings, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(settings.epochs):
        yield from torch.randperm(rows, generator=generator).chunk(settings.minibatches)


def _step(
    actors: Actors,
    rows: Experience,
    settings: PolicySettings,
    move_policy: bool,
    generator: torch.Generator,
    learn_general: LearnGeneral | None,
    micro: MicroBatches,
    first: bool,
) -> dict[str, float]:
    """One optimizer step of the networks, on the mean loss over the step's tokens.

    Raises:
        NotFiniteError: a figure or a gradient is not finite; no network has moved, or holds a gradient.
    """
    networks = [("grad_norm", actors.policy, actors.policy_optimizer)] if move_policy else []
    if actors.critic is not None and actors.critic_optimizer is not None:
        networks.append(("critic_grad_norm", actors.critic, actors.critic_optimizer))
    drawn = generator.get_state()

    def learn(size: int) -> tuple[dict[str, float], float]:
        sums, error = _accumulate(actors, rows, settings, move_policy, size)
        if move_policy and learn_general is not None:
            sums["general_loss"] = learn_general(len(rows.logprobs), settings.ptx_coefficient)
        return sums, error

    def undo() -> None:
        generator.set_state(drawn)  # of which general examples are drawn
        for _, _, optimizer in networks:
            optimizer.zero_grad(set_to_none=True)

    sums, error = micro.attempt(len(rows.logprobs), learn, undo)
    sums["grad_norm"] = 0.0
    try:
        for name, network, _ in networks:
            sums[name] = float(nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm))
        check_figures(sums)
        if first:
            check_ratio(error, actors.policy)
        for _, _, optimizer in networks:
            optimizer.step()
    finally:
        for _, _, optimizer in networks:
            optimizer.zero_grad(set_to_none=True)
    return sums


def _accumulate(
    actors: Actors, rows: Experience, settings: PolicySettings, move_policy: bool, size: int
) -> tuple[dict[str, float], float]:
    """Adds the gradient of a step's loss, `size` rows at once; returns its figures, and how far a ratio is off 1."""
    tokens, error = int(rows.batch.response_mask.sum()), 0.0
    sums: dict[str, float] = {}
    for index in torch.arange(len(rows.logprobs)).split(size):
        part = rows.rows(index)
        figures = _backward(actors, part, settings, tokens, move_policy)
        for name, values in figures.items():
            sums[name] = sums.get(name, 0.0) + float(values.sum()) / tokens
        error = max(error, float(torch.where(part.batch.response_mask, figures["ratio"] - 1.0, 0.0).abs().max()))
    return sums, error


def _backward(
    actors: Actors, rows: Experience, settings: PolicySettings, tokens: int, move_policy: bool
) -> dict[str, Float[Tensor, "B T"]]:
    """Adds the gradient of a micro-batch's share of the loss; returns figures of each token, 0 where padded.

    Args:
        actors: the networks.
        rows: the micro-batch.
        settings: of the loss.
        tokens: of the whole step, over which the loss is a mean.
        move_policy: False while the critic warms up.
    """
    policy, critic, batch = actors.policy, actors.critic, rows.batch

    def of_policy(logits: Tensor, part: Tokens) -> TokenLoss:
        statistics = token_statistics(logits, part.ids, settings.temperature)
        losses, figures = ppo_loss(*statistics, None, rows.tokens(part.positions), settings)
        return TokenLoss(losses.sum() / tokens, figures)

    with torch.set_grad_enabled(move_policy):
        states = response_states(policy, batch)
        loss, figures = token_loss(policy, states, batch, of_policy)
    if critic is not None:
        if critic.backbone is not None and move_policy:
            loss.backward()  # first, so that the activations of two networks are never held at once
            loss = loss.detach()
        losses, of_critic = ppo_loss(None, None, critic(batch, states), rows, settings)
        loss = loss + torch.where(batch.response_mask, losses, 0.0).sum() / tokens
        figures |= {name: torch.where(batch.response_mask, values, 0.0) for name, values in of_critic.items()}
    loss.backward()
    return figures


def check_ratio(error: float, policy: nn.Module) -> None:
    """Before anything has moved every ratio is 1, but for rounding, which in bfloat16 is coarse."""
    if not error <= (1e-2 if computes_in_float32(policy) else 0.5):  # written so that a NaN is refused too
        raise RuntimeError(
            f"at the first minibatch a probability ratio is off 1 by {error:.3g}: the policy that scores is not the "
            "one that sampled; look for dropout, an unmerged adapter or a warped sampler"
        )
