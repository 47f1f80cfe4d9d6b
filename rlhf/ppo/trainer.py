"""PPO and its kin on a reward model's score: sample, score, estimate advantages, update, and watch the KL."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.adapters import trainable_parameters
from rlhf.algorithms import ALGORITHMS
from rlhf.batches import Batch
from rlhf.demonstrations import Example, learn_responses
from rlhf.models import Policy, computes_in_float32
from rlhf.optim import shuffled_batches
from rlhf.ppo.critic import Critic
from rlhf.ppo.experience import Experience, Networks, PromptText, Scorer, sample_experience
from rlhf.ppo.kl import KlController
from rlhf.ppo.update import Actors, update
from rlhf.settings.policy import PolicySettings

LogRatio = Callable[[Batch], Float[Tensor, "B T"]]


class Check(NamedTuple):
    """What a watch over the run says at an iteration.

    Attributes:
        figures: what it measured, for the curves.
        best: whether the policy is the best so far; the trainer then keeps a copy of it.
        warnings: what looks wrong.
        stop: why to stop now and go back to the best policy, or None.
    """

    figures: dict[str, float]
    best: bool
    warnings: list[str]
    stop: str | None


class Watch(Protocol):
    """Whoever looks at the policy from outside while it is trained: the reward-hacking monitor."""

    def check(self, policy: Policy, log_ratio: LogRatio, iteration: int) -> Check | None:
        """A check of the policy after so many iterations; None when none is due."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Kept(NamedTuple):
    """A copy of the policy's trainable weights, on the CPU, after so many iterations."""

    iteration: int
    weights: list[Tensor]


@dataclass
class PpoTrainer:
    """The algorithm's state: the networks, their optimizers, the KL coefficient and the random stream.

    Attributes:
        reference: the frozen start; None when it is the policy itself with its adapter off.
        critic: what advantages are estimated with; None where the algorithm has none.
        general: examples of other tasks for the pretraining term (`ptx_coefficient`).
        warnings: what the watch thinks wrong after the last iteration.
        stopped: why the run ended early, or None.
        kept: the policy to go back to when it does.
    """

    policy: Policy
    reference: Policy | None
    critic: Critic | None
    scorer: Scorer
    prompts: Sequence[PromptText]
    settings: PolicySettings
    watch: Watch | None = None
    general: Sequence[Example] = ()
    iteration: int = field(init=False, default=0)
    warnings: list[str] = field(init=False, default_factory=list)
    stopped: str | None = field(init=False, default=None)
    kept: Kept | None = field(init=False, default=None)
    networks: Networks = field(init=False)
    actors: Actors = field(init=False)
    controller: KlController = field(init=False)
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("found no prompt to sample for; PPO needs at least one in the train split")
        settings, critic = self.settings, self.critic
        assert (critic is not None) == ALGORITHMS[settings.algorithm].critic
        self.policy.model.eval()  # dropout stays off wherever logprobs are compared
        if self.reference is not None:
            self.reference.model.eval().requires_grad_(False)
        self.networks = Networks(self.policy, self.reference, critic, settings)
        self.actors = Actors(
            self.policy.model,
            critic,
            _adam(trainable_parameters(self.policy), settings.learning_rate),
            None if critic is None else _adam(critic.parameters(), settings.critic_learning_rate),
        )
        self.controller = KlController.start(settings.kl)
        self.generator = torch.Generator().manual_seed(settings.seed)
        self._start = fingerprint(trainable_parameters(self.policy))

    def train(self) -> Iterator[dict[str, float]]:
        """Runs the iterations that are left, yielding each one's figures; `stopped` says why it ended early.

        Past the KL ceiling the policy goes back to where it was last measured within; when the watch stops the run,
        to the best it has seen.

        Raises:
            RuntimeError: the policy is not the reference at the start, or its first ratios are not 1.
        """
        settings, order = self.settings, self._order()
        if self.iteration == 0:
            self._look()
        while self.iteration < settings.iterations and self.stopped is None:
            experience, figures = self.sample_experience([self.prompts[row] for row in order[self.iteration]])
            if self.iteration == 0:
                _check_start(figures["kl"], self.policy)
            if self._passes_ceiling(figures["kl"]):
                return
            self._decay()
            move = self.critic is None or self.iteration >= settings.critic_warmup
            general = self._learn_general if self.general and settings.ptx_coefficient > 0 else None
            figures |= update(self.actors, experience, settings, move, self.generator, general)
            self.controller.update(figures["kl"], len(experience.logprobs))
            self.iteration += 1
            yield figures | self._look()

    def sample_experience(self, prompts: Sequence[PromptText]) -> tuple[Experience, dict[str, float]]:
        """Completions of some prompts with their advantages, and the figures of the rollout."""
        beta = self.controller.coefficient
        experience, figures = sample_experience(
            self.networks, self.scorer, prompts, self.settings, beta, self.generator
        )
        return experience, {**figures, "kl_coefficient": beta}

    def check_learnt(self) -> None:
        """Raises ValueError when the policy still is where it began: a run that trained nothing is no success."""
        if fingerprint(trainable_parameters(self.policy)) != self._start:
            return
        if self.stopped is not None:
            raise ValueError(f"{self.settings.algorithm} went back to where it began: {self.stopped}")
        raise ValueError(
            f"{self.settings.algorithm} changed no weight of the policy; are policy.iterations above "
            "policy.critic_warmup, and do the scores of the reward model differ?"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs to go on as if it had never stopped; the data's order follows from the seed."""
        actors = self.actors
        return {
            "iteration": self.iteration,
            "reference": self._reference(),
            "policy": [weight.detach().cpu() for weight in trainable_parameters(self.policy)],
            "critic": actors.critic and actors.critic.state_dict(),
            "policy_optimizer": actors.policy_optimizer.state_dict(),
            "critic_optimizer": actors.critic_optimizer and actors.critic_optimizer.state_dict(),
            "kl_coefficient": self.controller.coefficient,
            "generator": self.generator.get_state(),
            "kept": self.kept and tuple(self.kept),
            "stopped": self.stopped,
            "watch": self.watch and self.watch.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a run up where `state_dict` left it.

        Raises:
            ValueError: the checkpoint belongs to another reference.
        """
        if state["reference"] != self._reference():
            raise ValueError("the checkpoint was made with another reference; start PPO anew, or load the model it had")
        for weight, saved in zip(trainable_parameters(self.policy), state["policy"], strict=True):
            weight.copy_(saved)
        if self.actors.critic is not None and self.actors.critic_optimizer is not None:
            self.actors.critic.load_state_dict(state["critic"])
            self.actors.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.actors.policy_optimizer.load_state_dict(state["policy_optimizer"])
        self.controller.coefficient = state["kl_coefficient"]
        self.generator.set_state(state["generator"])
        self.iteration, self.stopped = state["iteration"], state["stopped"]
        self.kept = state["kept"] and Kept(*state["kept"])
        if self.watch is not None:
            self.watch.load_state_dict(state["watch"])

    def _order(self) -> list[list[int]]:
        """The prompts of every iteration, from the seed alone, so that a resumed run knows them too."""
        settings = self.settings
        draw = torch.Generator().manual_seed(settings.seed)
        return list(shuffled_batches(len(self.prompts), settings.prompts_per_iteration, settings.iterations, draw))

    def _passes_ceiling(self, kl: float) -> bool:
        """Ends the run past the ceiling; within it keeps the policy to go back to, unless the watch keeps better."""
        ceiling = self.settings.kl.ceiling
        if ceiling is None:
            return False
        if kl > ceiling:
            self.stopped = (
                f"the KL to the reference is {kl:.2f} nats per sequence, above policy.kl.ceiling {ceiling:g}; lower "
                "policy.learning_rate, or raise policy.kl.coefficient"
            )
            self._restore()
            return True
        if self.watch is None:
            self._keep()
        return False

    def _look(self) -> dict[str, float]:
        """Has the watch check the policy, and does what it says."""
        check = None
        if self.watch is not None:
            check = self.watch.check(self.policy, self.networks.log_ratio, self.iteration)
        self.warnings = [] if check is None else check.warnings
        if check is None:
            return {}
        if check.best:
            self._keep()
        if check.stop is not None:
            self.stopped = check.stop
            self._restore()
        return check.figures

    def _keep(self) -> None:
        self.kept = Kept(
            self.iteration, [weight.detach().to("cpu", copy=True) for weight in trainable_parameters(self.policy)]
        )

    @torch.no_grad()
    def _restore(self) -> None:
        if self.kept is not None:
            for weight, saved in zip(trainable_parameters(self.policy), self.kept.weights, strict=True):
                weight.copy_(saved)

    def _decay(self) -> None:
        """Both rates fall linearly towards 0 over the run (Huang et al. 2022, detail 4 of 13)."""
        left = 1.0 - self.iteration / self.settings.iterations
        for optimizer, rate in (
            (self.actors.policy_optimizer, self.settings.learning_rate),
            (self.actors.critic_optimizer, self.settings.critic_learning_rate),
        ):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = rate * left

    def _learn_general(self, rows: int, weight: float) -> float:
        """Adds the weighted gradient of the cross-entropy of so many general examples; returns that, nats per token."""
        places = torch.randint(len(self.general), (rows,), generator=self.generator).tolist()
        examples = [self.general[place] for place in places]
        tokens, size = sum(len(response) for _, response in examples), self.settings.micro_batch_size or rows
        parts = (examples[start : start + size] for start in range(0, rows, size))
        return sum(learn_responses(self.policy, part, weight / tokens) for part in parts) / tokens

    def _reference(self) -> str:
        """Which reference this is: the digest of its weights, or of those that the adapter leaves alone."""
        if self.reference is not None:
            return fingerprint(self.reference.model.parameters())
        return fingerprint(weight for weight in self.policy.model.parameters() if not weight.requires_grad)


def _adam(weights: Iterable[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights, learning_rate, weight_decay=0.0, fused=True)


def fingerprint(weights: Iterable[Tensor]) -> str:
    """A digest of weights, bit for bit."""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_start(kl: float, policy: Policy) -> None:
    if not abs(kl) <= (1e-3 if computes_in_float32(policy.model) else 0.5):  # a NaN is refused too
        raise RuntimeError(
            f"before the first update the KL to the reference is {kl:.3g} nats per sequence, expected 0: the "
            "reference is not the model that PPO starts from; merge the SFT adapter, or use it as the reference"
        )
