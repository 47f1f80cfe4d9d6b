"""When nights run, and what surrounds them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rlhf.settings.base import NonNegative, Positive, Settings
from tasks import cron

UNCHANGED = "params.yaml"
"""The name of the variant that changes nothing."""
TRIED = ("model", "sft", "rollouts", "rank", "pairs", "reward", "policy")
"""The sections in which candidates of one night may differ."""

NightOutcome = Literal["promoted", "not promoted", "failed", "interrupted", "deadline", "missed", "nothing new"]


class NightParams(Settings):
    """When nights run, and what surrounds them; no stage reads this, so a change here reruns nothing."""

    cron: str = "0 2 * * *"
    timezone: str = "UTC"
    missed: Literal["catch_up", "skip"] = "catch_up"
    """What becomes of a night whose time passed while nothing was running: it starts late, once, or not at all."""
    deadline_minutes: Annotated[float, Field(gt=0.0)] | None = None
    """A night that still runs after so long saves its state and ends; the next one resumes there."""
    notify: str | None = None
    """A shell command run after a night with NIGHTJAR_OUTCOME set and the night as JSON on standard input."""
    notify_on: list[NightOutcome] = ["failed"]
    seeds: list[NonNegative] = []
    """More seeds to train each night, beside the params' own; the best by a held-out score is registered."""
    variants: dict[str, dict[str, Any]] = {}
    """Settings to try each night with every seed, by name, each with the sections and params that it changes."""
    rouge_weight: Annotated[float, Field(ge=0.0)] | None = None
    """What ROUGE-L counts in the choice: a policy's score is its win rate over SFT on dev prompts, by the held-out
    scorer, plus so many times the change in ROUGE-L. null chooses by the scorer's mean score alone."""
    parallel: Positive = 1
    """Seeds and variants that are trained at once, each in a process of its own."""

    @model_validator(mode="after")
    def _has_a_next_time(self) -> Self:
        cron.check(self.cron, self.timezone)
        return self

    @model_validator(mode="after")
    def _variants_compare(self) -> Self:
        for name, changes in self.variants.items():
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or name == UNCHANGED:
                raise ValueError(f"variants: {name!r} cannot name a folder of its own; use letters, digits, - and _")
            if fixed := [section for section in changes if section not in TRIED]:
                raise ValueError(
                    f"variants: {name} changes {', '.join(fixed)}, but all candidates of a night learn from the same "
                    f"data and are measured alike; change {', '.join(TRIED)}, and the rest in params.yaml itself"
                )
        return self
