"""One PPO update: several epochs over one set of rollouts, in minibatches and micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlhf.batches import Batch, response_logits
from rlhf.logprobs import kl_estimate, token_entropy, token_logprobs
from rlhf.masking import masked_mean
from rlhf.models import computes_in_float32
from rlhf.ppo.critic import Critic
from rlhf.ppo.losses import policy_losses, probability_ratio, value_losses
from rlhf.settings import PpoSettings


class Experience(NamedTuple):
    """What one iteration sampled, and what the networks said of it then.

    Attributes:
        batch: prompts and completions.
        logprobs: log π_old of each response token.
        values: V_old.
        advantages: whitened.
        returns: the critic's target.
    """

    batch: Batch
    logprobs: Float[Tensor, "B T"]
    values: Float[Tensor, "B T"]
    advantages: Float[Tensor, "B T"]
    returns: Float[Tensor, "B T"]

    def rows(self, index: Tensor) -> Experience:
        """Some of the rows."""
        return Experience(Batch(*(tensor[index] for tensor in self.batch)), *(tensor[index] for tensor in self[1:]))


class Actors(NamedTuple):
    """The two networks that learn, with their optimizers."""

    policy: nn.Module
    critic: Critic
    policy_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer


def update(
    actors: Actors,
    experience: Experience,
    settings: PpoSettings,
    move_policy: bool,
    generator: torch.Generator,
) -> dict[str, float]:
    """Learns from one set of rollouts, in place; returns the masked diagnostics, averaged over its steps.

    Epochs end early once the approximate KL (k3, nats per token) between old and new policy passes
    `settings.update_kl_ceiling`.

    Raises:
        RuntimeError: the first ratios are not 1, so the sampled logprobs are not the policy's own.
    """
    steps: list[dict[str, float]] = []
    for index in _minibatches(len(experience.logprobs), settings, generator):
        steps.append(_step(actors, experience.rows(index), settings, move_policy, first=not steps))
        ceiling = settings.update_kl_ceiling
        if move_policy and ceiling is not None and steps[-1]["approx_kl"] > ceiling:
            break
    averages = {key: sum(step[key] for step in steps) / len(steps) for key in steps[0] if key != "ratio_error"}
    return {**averages, "update_steps": float(len(steps))}


def _minibatches(rows: int, settings: PpoSettings, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(settings.epochs):
        yield from torch.randperm(rows, generator=generator).chunk(settings.minibatches)


def _step(actors: Actors, rows: Experience, settings: PpoSettings, move_policy: bool, first: bool) -> dict[str, float]:
    """One optimizer step of both networks; losses are summed over the mask and divided by the step's tokens."""
    tokens = int(rows.batch.response_mask.sum())
    size = settings.micro_batch_size or len(rows.logprobs)
    sums: dict[str, float] = {}
    for index in torch.arange(len(rows.logprobs)).split(size):
        part = rows.rows(index)
        loss, figures = _losses(actors, part, settings, move_policy)
        (loss / tokens).backward()
        share = int(part.batch.response_mask.sum()) / tokens
        for key, value in figures.items():
            sums[key] = max(sums.get(key, 0.0), value) if key == "ratio_error" else sums.get(key, 0.0) + share * value
    if first:
        _check_ratio(sums["ratio_error"], actors.policy)
    sums["critic_grad_norm"] = _apply(actors.critic, actors.critic_optimizer, settings.max_grad_norm)
    if move_policy:
        sums["grad_norm"] = _apply(actors.policy, actors.policy_optimizer, settings.max_grad_norm)
    else:
        sums["grad_norm"] = 0.0
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
) -> tuple[Tensor, dict[str, float]]:
    """The summed loss L_clip + c₁·L_vf − c₂·S of some rows (Schulman et al. 2017, equation 9), and diagnostics."""
    mask = rows.batch.response_mask
    values = actors.critic(rows.batch)
    value_loss = value_losses(values, rows.values, rows.returns, settings.value_clip)
    with torch.set_grad_enabled(move_policy):
        logits = response_logits(actors.policy, rows.batch)
        logprobs = token_logprobs(logits, rows.batch.response_ids, settings.temperature)
        with torch.set_grad_enabled(move_policy and settings.entropy_coefficient > 0):
            entropy = token_entropy(logits, settings.temperature)
    logprobs = torch.where(mask, logprobs, 0.0)
    ratio = probability_ratio(logprobs, rows.logprobs)
    policy_loss = policy_losses(ratio, rows.advantages, settings.clip, settings.dual_clip)
    total = policy_loss + settings.value_coefficient * value_loss - settings.entropy_coefficient * entropy
    with torch.no_grad():
        clipped = (ratio - 1.0).abs() > settings.clip
        figures = {
            "policy_loss": masked_mean(policy_loss, mask),
            "value_loss": masked_mean(value_loss, mask),
            "entropy": masked_mean(entropy, mask),
            "clip_fraction": masked_mean(clipped.float(), mask),
            "approx_kl": masked_mean(kl_estimate(rows.logprobs, logprobs, "k3"), mask),
            "ratio": masked_mean(ratio, mask),
            "ratio_error": torch.where(mask, ratio - 1.0, 0.0).abs().max(),
        }
    return torch.where(mask, total, 0.0).sum(), {key: float(value) for key, value in figures.items()}


def _apply(network: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    norm = float(nn.utils.clip_grad_norm_(network.parameters(), max_norm))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
