"""Settings of reward models."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rlhf.settings.adapters import LoraSettings
from rlhf.settings.base import NonNegative, Positive
from rlhf.settings.optim import OptimSettings


class RewardSettings(OptimSettings):
    """A reward model trained on pairs."""

    kind: Literal["scalar", "encoder"] = "scalar"
    """scalar: a head on a causal backbone; encoder: a BERT-type cross-encoder."""
    backbone: str | None = None
    """scalar: a Hub id or a local path; null starts from the SFT model."""
    encoder: str | None = None
    """encoder: a Hub id or a local path; null builds a small BERT from scratch."""
    encoder_config: dict[str, Any] = {}
    freeze_encoder: bool = False
    adapter: LoraSettings | None = None
    """scalar: null trains every weight of the backbone; an adapter is merged into it when training ends."""
    loglikelihood: bool = True
    """scalar: feed the completion's log-likelihood under a jointly tuned LM head to the head."""
    loss: Literal["pairwise", "regression"] = "pairwise"
    """regression: mean squared error to the completions' ratings, where the rankings carry them."""
    margin: Annotated[float, Field(ge=0.0)] = 0.0
    """pairwise: how much more the chosen one must score, times the pair's own margin where it has one."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)] = 0.0
    """pairwise: the share of pairs that annotators are taken to have swapped."""
    centring: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of (r_chosen + r_rejected)² beside the pairwise loss, so that scores compare across prompts."""
    members: Positive = 1
    """Networks trained from different seeds; the score is their mean, their spread its uncertainty."""
    uncertainty_penalty: Annotated[float, Field(ge=0.0)] = 0.0
    """The score is lowered by this many of the members' standard deviations."""
    micro_batch_size: Positive | None = None
    """Rankings in one forward; null takes the whole batch at once."""
    max_completion_tokens: Positive = 96
    """Longer completions are cut, in the model's own tokens; pairs that are the same then are dropped."""
    eval_every: Positive = 50
    seed: NonNegative = 0

    @model_validator(mode="after")
    def _options_fit(self) -> Self:
        pairwise = self.margin or self.label_smoothing or self.centring
        for options, given, home, there in (
            ("backbone, adapter", self.backbone or self.adapter, "kind: scalar", self.kind == "scalar"),
            ("encoder, freeze_encoder", self.encoder or self.freeze_encoder, "kind: encoder", self.kind == "encoder"),
            ("margin, label_smoothing, centring", pairwise, "loss: pairwise", self.loss == "pairwise"),
            ("uncertainty_penalty", self.uncertainty_penalty, "members: 2 or more", self.members > 1),
        ):
            if given and not there:
                raise ValueError(f"{options}: only with {home}; set that, or leave them out")
        return self
