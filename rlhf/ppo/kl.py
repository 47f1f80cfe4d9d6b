"""The coefficient of the KL penalty."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.settings.policy import KlSettings


@dataclass
class KlController:
    """β, fixed or steered towards a target. Its one state is the coefficient."""

    settings: KlSettings
    coefficient: float

    @classmethod
    def start(cls, settings: KlSettings) -> KlController:
        return cls(settings, settings.coefficient)

    def update(self, kl: float, sequences: int) -> None:
        """β ← β·(1 + clip(KL/target − 1, ±0.2)·n/horizon); nothing without a target.

        Source: Ziegler et al. (2019), section 2.2.

        Args:
            kl: the mean KL to the reference over the iteration, nats per sequence.
            sequences: n, the completions that it was measured on.
        """
        if self.settings.target is None:
            return
        error = min(max(kl / self.settings.target - 1.0, -0.2), 0.2)
        self.coefficient *= 1.0 + error * sequences / self.settings.horizon
