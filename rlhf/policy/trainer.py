"""The frame of every trainer of a policy: its iterations, who watches them, what is kept, and checkpoints."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from rlhf.adapters import trainable_parameters
from rlhf.algorithms import ALGORITHMS
from rlhf.batches import Batch
from rlhf.demonstrations import Example, learn_responses
from rlhf.finite import BadBatches, NotFiniteError, check_state
from rlhf.memory import MicroBatches
from rlhf.models import Policy, computes_in_float32
from rlhf.optim import shuffled_batches
from rlhf.policy.rollouts import Networks
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


@dataclass(kw_only=True)
class PolicyTrainer(ABC):
    """The run's state, whatever the algorithm; a subclass says what an iteration learns.

    Attributes:
        reference: the frozen start; None when it is the policy itself with its adapter off.
        general: examples of other tasks for the pretraining term (`ptx_coefficient`).
        warnings: what the watch thinks wrong after the last iteration.
        stopped: why the run ended early, or None.
        kept: the policy to go back to when it does.
        bad: what was skipped since it was not finite.
        micro: how many rows go through the networks at once.
        idle: iterations that learnt nothing for that reason.
    """

    remedy: ClassVar[str]
    """Where to look when nothing was learnt."""

    policy: Policy
    reference: Policy | None
    settings: PolicySettings
    watch: Watch | None = None
    general: Sequence[Example] = ()
    bad: BadBatches = field(init=False)
    micro: MicroBatches = field(init=False)
    idle: int = field(init=False, default=0)
    iteration: int = field(init=False, default=0)
    warnings: list[str] = field(init=False, default_factory=list)
    stopped: str | None = field(init=False, default=None)
    kept: Kept | None = field(init=False, default=None)
    networks: Networks = field(init=False)
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.policy.model.eval()  # dropout stays off wherever logprobs are compared
        if self.reference is not None:
            self.reference.model.eval().requires_grad_(False)
        self.micro = MicroBatches("policy", self.settings.micro_batch_size)
        self.networks = Networks(self.policy, self.reference, None, self.settings, self.micro)
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        self.bad = BadBatches("policy", self.settings.max_bad_batches)
        self._start = fingerprint(trainable_parameters(self.policy))

    @property
    @abstractmethod
    def items(self) -> int:
        """Of how many prompts an iteration takes its share."""

    @abstractmethod
    def learn(self, rows: Sequence[int]) -> dict[str, float] | None:
        """One iteration on these of the items; its figures, or None where it stopped the run before it learnt."""

    @abstractmethod
    def optimizers(self) -> list[tuple[torch.optim.Optimizer, float]]:
        """What steps, each with its rate at the run's start."""

    def train(self) -> Iterator[dict[str, float]]:
        """Runs the iterations that are left, yielding each one's figures; `stopped` says why it ended early.

        Past the KL ceiling the policy goes back to where it was last measured within; when the watch stops the run,
        to the best it has seen.

        Raises:
            RuntimeError: the policy is not the reference at the start, or not the one that sampled.
            ValueError: more batches were not finite than may be skipped.
        """
        settings, draw = self.settings, torch.Generator().manual_seed(self.settings.seed)
        # From the seed alone, so that a resumed run knows the order too.
        order = list(shuffled_batches(self.items, settings.prompts_per_iteration, settings.iterations, draw))
        if self.iteration == 0:
            self.look()
        while self.iteration < settings.iterations and self.stopped is None:
            try:
                figures = self.learn(order[self.iteration])
            except NotFiniteError as error:
                figures = self.skip(error)
                self.idle += 1
            if figures is None:
                return
            self.iteration += 1
            yield figures | self.look()

    def check_learnt(self) -> None:
        """Raises ValueError when the policy still is where it began: a run that trained nothing is no success."""
        if fingerprint(trainable_parameters(self.policy)) != self._start:
            return
        if self.stopped is not None:
            raise ValueError(f"{self.settings.algorithm} went back to where it began: {self.stopped}")
        if self.bad.count:
            raise ValueError(
                f"{self.settings.algorithm} changed no weight of the policy; batches skipped since something was "
                f"not finite: {self.bad.count}"
            )
        raise ValueError(f"{self.settings.algorithm} changed no weight of the policy; {self.remedy}")

    def state_dict(self) -> dict[str, Any]:
        """All that the run needs to go on as if it had never stopped; the data's order follows from the seed.

        Raises:
            ValueError: a weight, or what an optimizer knows of it, is not finite: who resumed would be stuck with it.
        """
        learnt = {
            "policy": [weight.detach().cpu() for weight in trainable_parameters(self.policy)],
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers()],
        }
        check_state(learnt, "the checkpoint")
        return {
            **learnt,
            "iteration": self.iteration,
            "reference": self._reference(),
            "generator": self.generator.get_state(),
            "kept": self.kept and tuple(self.kept),
            "stopped": self.stopped,
            "bad_batches": self.bad.count,
            "idle": self.idle,
            "watch": self.watch and self.watch.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a run up where `state_dict` left it.

        Raises:
            ValueError: the checkpoint belongs to another reference.
        """
        if state["reference"] != self._reference():
            raise ValueError(
                "the checkpoint was made with another reference; start the policy anew, or load the model it had"
            )
        for weight, saved in zip(trainable_parameters(self.policy), state["policy"], strict=True):
            weight.copy_(saved)
        for (optimizer, _), saved in zip(self.optimizers(), state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        self.iteration, self.stopped = state["iteration"], state["stopped"]
        self.bad.count, self.idle = state["bad_batches"], state["idle"]
        self.kept = state["kept"] and Kept(*state["kept"])
        if self.watch is not None:
            self.watch.load_state_dict(state["watch"])

    def skip(self, error: NotFiniteError, **batch: Any) -> dict[str, float]:
        """Nothing is learnt from a bad batch; raises ValueError where it is one more than the settings allow."""
        self.bad.skip(error, iteration=self.iteration, **batch)
        return {"skipped_batches": float(self.bad.count)}

    def passes_ceiling(self, kl: float) -> bool:
        """Ends the run past the ceiling; within it keeps the policy to go back to, unless the watch keeps better."""
        ceiling = self.settings.kl.ceiling
        if ceiling is None:
            return False
        if kl > ceiling:
            self.stopped = (
                f"the KL to the reference is {kl:.2f} nats per sequence, above policy.kl.ceiling {ceiling:g}; lower "
                f"policy.learning_rate, or raise policy.{ALGORITHMS[self.settings.algorithm].penalty}"
            )
            self._restore()
            return True
        if self.watch is None:
            self._keep()
        return False

    def look(self) -> dict[str, float]:
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

    def decay(self) -> None:
        """Every rate falls linearly towards 0 over the run (Huang et al. 2022, detail 4 of 13)."""
        left = 1.0 - self.iteration / self.settings.iterations
        for optimizer, rate in self.optimizers():
            for group in optimizer.param_groups:
                group["lr"] = rate * left

    def learn_general(self, rows: int, weight: float) -> float:
        """Adds the weighted gradient of the cross-entropy of so many general examples; returns that, nats per token."""
        indices = torch.randint(len(self.general), (rows,), generator=self.generator).tolist()
        examples = [self.general[index] for index in indices]
        tokens, size = sum(len(response) for _, response in examples), self.micro.size or rows
        parts = (examples[start : start + size] for start in range(0, rows, size))
        return sum(learn_responses(self.policy, part, weight / tokens) for part in parts) / tokens

    def _keep(self) -> None:
        self.kept = Kept(
            self.iteration, [weight.detach().to("cpu", copy=True) for weight in trainable_parameters(self.policy)]
        )

    @torch.no_grad()
    def _restore(self) -> None:
        if self.kept is not None:
            for weight, saved in zip(trainable_parameters(self.policy), self.kept.weights, strict=True):
                weight.copy_(saved)

    def _reference(self) -> str:
        """Which reference this is: the digest of its weights, or of those that the adapter leaves alone."""
        if self.reference is not None:
            return fingerprint(self.reference.model.parameters())
        return fingerprint(weight for weight in self.policy.model.parameters() if not weight.requires_grad)


def adam(weights: Iterable[Tensor], learning_rate: float) -> torch.optim.Optimizer:
    """What policies and critics learn with."""
    return torch.optim.AdamW(weights, learning_rate, weight_decay=0.0, fused=True)


def fingerprint(weights: Iterable[Tensor]) -> str:
    """A digest of weights, bit for bit."""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_start(kl: float, policy: Policy) -> None:
    """Raises RuntimeError where the policy, before its first update, is another than its reference."""
    if not abs(kl) <= (1e-3 if computes_in_float32(policy.model) else 0.5):  # a NaN is refused too
        raise RuntimeError(
            f"before the first update the KL to the reference is {kl:.3g} nats per sequence, expected 0: the "
            "reference is not the model that training starts from; merge the SFT adapter, or use it as the reference"
        )
