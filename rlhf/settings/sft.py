"""Settings of supervised fine-tuning."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from rlhf.settings.adapters import AdapterSettings
from rlhf.settings.base import NonNegative, Positive, Share
from rlhf.settings.optim import OptimSettings


class SftSettings(OptimSettings):
    """Supervised fine-tuning on demonstrations, loss on the response only."""

    start: Literal["base", "champion"] = "base"
    """base: the base model; champion: the policy that was promoted last, where there is one."""
    adapter: AdapterSettings | None = None
    """null trains every weight; an adapter is merged into the model when SFT ends (a prompt is kept beside it)."""
    replay: Share = 0.0
    """Share of each batch drawn from the general demonstrations, in whole rows, against forgetting; 0 replays none."""
    micro_batch_size: Positive | None = None
    """Rows in one forward; null takes the whole batch at once."""
    eval_every: Positive = 100
    eval_rows: Positive = 500
    """At most so many demonstrations of the dev split are evaluated on, the first ones."""
    max_response_tokens: Positive = 96
    seed: NonNegative = 0

    @property
    def replay_rows(self) -> int:
        """Rows of each batch that are general demonstrations: at least one where any are replayed."""
        return max(1, round(self.replay * self.batch_size)) if self.replay else 0

    @model_validator(mode="after")
    def _a_prompt_is_learnt_for_the_base(self) -> Self:
        if self.start == "champion" and self.adapter is not None and self.adapter.kind == "prompt":
            raise ValueError(
                "start: champion goes on training a model that may have a learnt prompt already, and adapter.kind: "
                "prompt would put another before it; set start to base, or take kind: lora or no adapter"
            )
        return self

    @model_validator(mode="after")
    def _something_of_the_task(self) -> Self:
        if self.replay_rows >= self.batch_size:
            raise ValueError(
                f"replay {self.replay} takes {self.replay_rows} of the {self.batch_size} rows of a batch, which leaves "
                "none to the demonstrations; lower replay, or raise batch_size"
            )
        return self
