"""The reward-hacking monitor: reads the policy on held-out prompts while it is trained, and says when to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from rlhf.batches import make_batch
from rlhf.evaluation.hacking import Reading, gain, verdict
from rlhf.evaluation.text import distinct_n, empty_share, identical_share, repeated_ngram_share
from rlhf.generation import sample
from rlhf.models import Policy
from rlhf.policy.rollouts import Scorer
from rlhf.policy.trainer import Check, LogRatio
from rlhf.records import PromptText, Sampling
from rlhf.settings.policy import MonitorSettings

BATCH = 64


@dataclass
class Monitor:
    """Readings so far, and what it takes to make one. It draws from seeds of its own: the training is not disturbed.

    Attributes:
        prompts: none of them is trained on.
        proxy: the reward model that the policy is trained on.
        held_out: a scorer that nothing is trained on; None where there is none.
        limits: how often it reads, and what it bears.
        sampling: as the policy samples in training.
        iterations: of the whole run; its end is read too.
        seed: of the samples; the same for every reading, so that readings differ by the policy alone.
    """

    prompts: Sequence[PromptText]
    proxy: Scorer
    held_out: Scorer | None
    limits: MonitorSettings
    sampling: Sampling
    iterations: int
    seed: int
    readings: list[Reading] = field(init=False, default_factory=list)

    def check(self, policy: Policy, log_ratio: LogRatio, iteration: int) -> Check | None:
        """Reads the policy where a reading is due: every so many iterations, and at the end.

        Raises:
            ValueError: what the first reading measured is not finite.
        """
        if iteration % self.limits.every and iteration != self.iterations:
            return None
        now = self.read(policy, log_ratio, iteration)
        if not self.readings and now.unmeasured():
            raise ValueError(
                f"before the first update {now.unmeasured()}, so there is nothing to hold a reading against; train the "
                "reward model anew: nightjar stage reward"
            )
        self.readings.append(now)
        outcome = verdict(self.readings, self.limits)
        figures = {f"monitor_{name}": value for name, value in self.figures(now).items()}
        return Check(figures, outcome.best is now, outcome.findings[-1], self.stop_reason())

    def stop_reason(self) -> str | None:
        """Why to stop after the last reading: it is the `patience`-th in a row past a limit.

        The end of the run leaves no time to recover, so there one such reading is enough to go back.
        """
        outcome, last = verdict(self.readings, self.limits), self.readings[-1].iteration
        if outcome.in_a_row < (1 if last == self.iterations else self.limits.patience):
            return None
        return (
            f"monitor readings in a row past a limit: {outcome.in_a_row}; after iteration {last} "
            f"{'; '.join(outcome.findings[-1])}. The policy of iteration {outcome.best.iteration} is kept"
        )

    @torch.no_grad()
    def read(self, policy: Policy, log_ratio: LogRatio, iteration: int) -> Reading:
        """Samples one completion per prompt, and has it scored."""
        texts: list[str] = []
        kl, tokens = 0.0, 0
        for start in range(0, len(self.prompts), BATCH):
            encoded = policy.encode_prompts(self.prompts[start : start + BATCH])
            seeds = [self.seed + start + row for row in range(len(encoded))]
            drawn = sample(policy, encoded, [self.sampling] * len(encoded), seeds)
            responses = drawn.responses()
            kl += float(log_ratio(make_batch(encoded, responses, policy.device)).sum())
            tokens += int(drawn.lengths.sum())
            texts += [policy.decode(response) for response in responses]
        scores, spread = self._assess(texts)
        return Reading(
            iteration=iteration,
            proxy=scores,
            held_out=None if self.held_out is None else self.held_out.score(self.prompts, texts),
            kl=kl / len(texts),
            length=tokens / len(texts),
            repeated_3=repeated_ngram_share(texts, 3),
            distinct_2=distinct_n(texts, 2),
            empty=empty_share(texts),
            identical=identical_share(texts),
            spread=spread,
        )

    def _assess(self, texts: list[str]) -> tuple[Tensor, float]:
        """The proxy's scores, and its members' mean spread: 0 for a scorer that knows no such thing."""
        if not hasattr(self.proxy, "assess"):
            return self.proxy.score(self.prompts, texts), 0.0
        assessment = self.proxy.assess(self.prompts, texts)
        return assessment.scores, float(assessment.spread.mean())

    def figures(self, reading: Reading) -> dict[str, float]:
        """A reading as numbers, those that are finite; gains are in deviations of the first reading."""
        start = self.readings[0]
        figures = {"proxy": float(reading.proxy.mean()), "proxy_gain": gain(reading.proxy, start.proxy)}
        if reading.held_out is not None and start.held_out is not None:
            figures["held_out"] = float(reading.held_out.mean())
            figures["held_out_gain"] = gain(reading.held_out, start.held_out)
        names = ("kl", "length", "repeated_3", "distinct_2", "empty", "identical", "spread")
        figures |= {name: getattr(reading, name) for name in names}
        return {name: value for name, value in figures.items() if isfinite(value)}

    def state_dict(self) -> dict[str, Any]:
        """The readings, for a checkpoint."""
        return {"readings": [reading._asdict() for reading in self.readings]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes the readings back."""
        self.readings = [Reading(**reading) for reading in state["readings"]]
