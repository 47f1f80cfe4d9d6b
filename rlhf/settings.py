"""The settings of every learning step, as frozen strict models; importing them costs no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlhf.records import Sampling

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Settings(BaseModel):
    """A group of settings: a misspelt or wrongly typed one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSettings(Settings):
    """The base model and where it runs."""

    name: str | None = None
    """A Hub id or a local path; null builds a model from `config`."""
    config: dict[str, Any] = {}
    """For a model from scratch: `model_type` and the fields of its transformers configuration."""
    vocab_size: Annotated[int, Field(ge=300)] = 700
    """For a model from scratch: the size of the byte-level BPE trained on the corpus."""
    max_prompt_tokens: Positive = 128
    """A longer prompt is an error in training data, and quarantined by validate."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 on CUDA, float32 on the CPU."""

    threads: Positive | None = None
    """Threads of torch on the CPU; null takes all cores. A tiny model is faster on one, and the same everywhere."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.name is None) == (not self.config):
            raise ValueError("give either name (a Hub id or a path) or config (to build from scratch), not both")
        if self.config and "model_type" not in self.config:
            raise ValueError("config has no model_type; give one that transformers knows, such as llama")
        return self


class OptimSettings(Settings):
    """AdamW with linear warm-up and cosine decay."""

    steps: Positive
    batch_size: Positive
    learning_rate: Rate
    warmup_share: Share = 0.05
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    max_grad_norm: Rate = 1.0


class SftSettings(OptimSettings):
    """Supervised fine-tuning on demonstrations, loss on the response only."""

    micro_batch_size: Positive | None = None
    """Rows in one forward; null takes the whole batch at once."""
    eval_every: Positive = 100
    eval_rows: Positive = 500
    """At most so many demonstrations of the dev split are evaluated on, the first ones."""
    max_response_tokens: Positive = 96
    seed: NonNegative = 0


class RewardSettings(OptimSettings):
    """A reward model trained on pairs."""

    kind: Literal["scalar", "encoder"] = "scalar"
    """scalar: a head on the SFT backbone; encoder: a BERT-type cross-encoder."""
    encoder: str | None = None
    """encoder: a Hub id or a local path; null builds a small BERT from scratch."""
    encoder_config: dict[str, Any] = {}
    freeze_encoder: bool = False
    loglikelihood: bool = True
    """scalar: feed the completion's log-likelihood under a jointly tuned LM head to the head."""
    centring: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of (r_chosen + r_rejected)² beside the pairwise loss, so that scores compare across prompts."""
    max_completion_tokens: Positive = 96
    eval_every: Positive = 50
    seed: NonNegative = 0


class KlSettings(Settings):
    """The KL penalty that keeps the policy near the reference."""

    coefficient: Annotated[float, Field(ge=0.0)] = 0.1
    estimator: Literal["k1", "k2", "k3"] = "k1"
    target: Rate | None = None
    """nats per sequence; with a target the coefficient adapts, without one it is fixed."""
    horizon: Positive = 10_000
    ceiling: Rate | None = None
    """nats per sequence; past it the run stops."""


class PpoSettings(Settings):
    """Actor-critic PPO on the reward model's score."""

    iterations: Positive
    prompts_per_iteration: Positive
    epochs: Positive = 2
    minibatches: Positive = 4
    micro_batch_size: Positive | None = None
    learning_rate: Rate = 1.0e-4
    critic_learning_rate: Rate = 1.0e-3
    critic_warmup: NonNegative = 2
    """Iterations in which the critic learns and the policy stands still."""
    kl: KlSettings = KlSettings()
    discount: Share = 1.0
    gae_lambda: Share = 0.95
    clip: Rate = 0.2
    dual_clip: Annotated[float, Field(gt=1.0)] | None = None
    value_clip: Rate = 0.2
    value_coefficient: Annotated[float, Field(ge=0.0)] = 1.0
    entropy_coefficient: Annotated[float, Field(ge=0.0)] = 0.0
    update_kl_ceiling: Rate | None = 0.1
    """Approximate KL per token between old and new policy; past it the update's epochs end."""
    unfinished_score: float = -3.0
    """The score of a completion that never wrote EOS, in normalised units."""
    temperature: Rate = 1.0
    max_new_tokens: Positive = 64
    max_grad_norm: Rate = 1.0
    seed: NonNegative = 0


class RolloutSettings(Settings):
    """K completions for each prompt."""

    completions: Annotated[int, Field(ge=2)] = 4
    max_prompts: Positive | None = None
    sampling: Annotated[list[Sampling], Field(min_length=1)] = [Sampling()]
    """Cycled through the K completions of a prompt."""
    batch_size: Positive = 64
    seed: NonNegative = 0
