"""The base model: what SFT starts from, and what evaluate compares with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf.settings import ModelSettings

if TYPE_CHECKING:
    from rlhf.models import Policy


def load_base(model: ModelSettings, training: bool = False) -> Policy | None:
    """The base model of `model.name`; None where `model.config` builds one, which knows nothing before SFT.

    Raises:
        ValueError: the model cannot be had.
    """
    from rlhf.models import load_policy

    return None if model.name is None else load_policy(model.name, model, training)
