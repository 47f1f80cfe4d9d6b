"""Params of validate."""

from __future__ import annotations

from typing import Literal

from rlhf.settings.base import NonNegative, Positive, Share
from tasks.params.splits import SplitParams


class ValidateParams(SplitParams):
    """What the data must hold to before anything learns from it."""

    dev_share: Share = 0.05
    test_share: Share = 0.1
    """Shares of prompts; rows that carry a `split` of their own keep it."""
    max_prompt_tokens: Positive = 128
    max_response_tokens: Positive = 96
    max_rejected_share: Share = 0.05
    """A larger share of quarantined rows stops the night."""
    max_tie_share: Share = 0.6
    """A larger share of tied pairs in the feedback is reported as a warning."""
    control_tokens: Literal["text", "quarantine"] = "text"
    """What a tokenizer's control tokens, such as `<eos>`, are in the data: text like any other, which is reported as a
    warning, or a reason to quarantine the row. At the end of a response an end token is that response's end."""
    min_annotators: Positive = 1
    """Fewer annotators per ranked item are reported as a warning."""
    seed: NonNegative = 0
