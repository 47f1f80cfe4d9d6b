"""Shares of what is held out."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from rlhf.settings.base import Settings, Share


class SplitParams(Settings):
    """Shares of prompts that are held out; the rest is trained on."""

    dev_share: Share
    test_share: Share

    @model_validator(mode="after")
    def _something_to_train_on(self) -> Self:
        if self.dev_share + self.test_share >= 1.0:
            raise ValueError(
                f"dev_share {self.dev_share} and test_share {self.test_share} leave nothing to train on; "
                "let them sum to less than 1"
            )
        return self
