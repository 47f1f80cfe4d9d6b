"""Settings of adapters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from rlhf.settings.base import Positive, Rate, Settings


class AdapterSettings(Settings):
    """Few weights that learn beside frozen ones (PEFT)."""

    kind: Literal["lora", "prompt"] = "lora"
    """lora: low-rank updates of the linear layers; prompt: learnt embeddings before every input (prompt tuning)."""
    rank: Positive = 16
    alpha: Rate = 32.0
    """lora: the update is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    targets: list[str] = []
    """lora: names of the modules to adapt; none means every linear layer but the head."""
    prompt_tokens: Positive = 16
    """prompt: how many embeddings are learnt."""


def _is_lora(adapter: AdapterSettings) -> AdapterSettings:
    """With a soft prompt off, prompts are encoded otherwise: PPO's reference could not be its policy without it."""
    if adapter.kind != "lora":
        raise ValueError(f"kind {adapter.kind} is for sft alone; give kind: lora")
    return adapter


LoraSettings = Annotated[AdapterSettings, AfterValidator(_is_lora)]
