"""Params of register."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rlhf.settings.base import NonNegative, Positive, Rate, Settings, Share


class DriftParams(Settings):
    """When tonight's data count as drifted from the champion's and from those of the last nights."""

    alpha: Annotated[float, Field(ge=0.005, lt=0.5)] = 0.01
    """The chance that a night without drift is warned of, over all its figures together; below .005 is not resolved."""
    min_distance: Share = 0.05
    """What is certain but smaller than this is no drift."""
    nights: Positive = 7
    """So many of the last nights are compared with, together."""
    min_reward_order: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5
    """The least rank correlation of two reward models on fixed texts that is no drift."""
    max_reward_shift: Annotated[float, Field(ge=0.0)] = 0.5
    """How far the mean reward of fixed texts may move, in deviations of the earlier scores."""
    gate: bool = False
    """Whether data that drifted from the champion's keep the policy from promotion."""


class RegisterParams(Settings):
    """The gates between challenger and champion."""

    name: str = "nightjar"
    """Registered models are called <name>-policy and <name>-reward."""
    canaries: NonNegative | list[str] = 0
    """Prompts whose answers are shown beside the champion's, night by night: these, or so many first test prompts."""
    min_win_rate_low: Share = 0.5
    """The lower bound of the win rate's interval must lie above this, over SFT and over the champion."""
    min_lc_win_rate_low: Share | None = None
    """The same over SFT for the length-controlled win rate: what is left of it at equal lengths."""
    false_promotions_a_year: Rate | None = None
    """At most so many promotions a year, in expectation, of policies that are no better; null is 2.5 % a night."""
    min_judge_accuracy: Share | None = 0.5
    """Where the judge decided the win rate: the lower bound of its accuracy on people's test pairs lies above this."""
    max_rouge_drop: Annotated[float, Field(ge=0.0)] | None = 0.02
    """The policy's ROUGE-L may lie this far below SFT's (0 to 1 scale)."""
    max_bleu_drop: Annotated[float, Field(ge=0.0)] | None = None
    """The policy's BLEU may lie this far below SFT's (0 to 100 scale)."""
    max_kl: Annotated[float, Field(gt=0.0)] | None = 10.0
    """KL to SFT, nats per sequence."""
    monitor_clean: bool = True
    """Where policy.monitor watched, the policy that is kept must be one that it warned of nothing."""
    max_forgetting: Annotated[float, Field(ge=0.0)] | None = None
    """How far the loss on general demonstrations may lie above SFT's, nats per token; needs ingest.general."""
    drift: DriftParams = DriftParams()
