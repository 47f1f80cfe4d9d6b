"""Params of rank."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlhf.settings.base import NonNegative, Settings


class FeedbackParams(Settings):
    """Files below data/feedback/, by the split that their rankings go to."""

    train: list[str] = []
    dev: list[str] = []
    test: list[str] = []
    judge: list[str] = []
    """Rankings that only the judge learns from; the reward model never sees them."""
    any: list[str] = []
    """Split by prompt, as pairs' shares say."""


class RankParams(Settings):
    """Who ranks: the simulated annotator (rollouts of the builtin corpus) or people (files)."""

    annotator: Literal["simulated", "people"] = "simulated"
    noise: Annotated[float, Field(ge=0.0)] = 0.12
    """simulated: standard deviation of the noise on the gold score."""
    feedback: FeedbackParams = FeedbackParams()
    seed: NonNegative = 0
