"""The base model, and where networks run."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rlhf.settings.base import Positive, Settings


class ComputeSettings(Settings):
    """Where a network runs, in which precision, and what may be loaded."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "float32", "bfloat16", "pure_bfloat16"] = "auto"
    """bfloat16: autocast over float32 weights; pure_bfloat16: the weights and the optimizer's states too.

    auto: bfloat16 on CUDA, float32 on the CPU.
    """
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    trust_remote_code: bool = False
    """Run the Python code that a Hub model brings along."""
    fast: bool = True
    """Batches without padding, fused activations and a decoder of our own, where the model's family is known.

    false: transformers' forwards alone, with padding: the same results but for rounding, in more time and memory.
    """


class ModelSettings(ComputeSettings):
    """The base model and where it runs."""

    name: str | None = None
    """A Hub id or a local path; null builds a model from `config`."""
    config: dict[str, Any] = {}
    """For a model from scratch: `model_type` and the fields of its transformers configuration."""
    vocab_size: Annotated[int, Field(ge=300)] = 700
    """For a model from scratch: the size of the byte-level BPE trained on the corpus."""
    max_prompt_tokens: Positive = 128
    """A longer prompt is an error in training data, and quarantined by validate."""
    threads: Positive | None = None
    """Threads of torch on the CPU; null takes all cores. A tiny model is faster on one, and the same everywhere."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.name is None) == (not self.config):
            raise ValueError("give either name (a Hub id or a path) or config (to build from scratch), not both")
        if self.config and "model_type" not in self.config:
            raise ValueError("config has no model_type; give one that transformers knows, such as llama")
        return self
