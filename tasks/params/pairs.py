"""Params of pairs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rlhf.settings.base import NonNegative, Share
from tasks.params.splits import SplitParams


class PairsParams(SplitParams):
    """How rankings become pairs."""

    dev_share: Share = 0.05
    test_share: Share = 0.1
    judge_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the train prompts of rank.feedback.any whose rankings only the judge learns from."""
    seed: NonNegative = 0
