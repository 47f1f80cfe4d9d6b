"""Params of evaluate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlhf.settings.base import NonNegative, Positive, Settings


class EvaluateParams(Settings):
    """What the policy is measured by, on prompts that no other stage saw."""

    max_prompts: Positive | None = None
    samples: Positive = 2
    """Sampled completions per prompt for reward, gold and the win rate."""
    best_of: Annotated[int, Field(ge=2)] = 8
    shots: list[NonNegative] = []
    """Also evaluate with so many demonstrations in the prompt: [0, 1, 4], say; base model, SFT and policy."""
    language: Annotated[str, Field(pattern="^(auto|[a-z]{2,3}([-_][A-Za-z0-9]+)*)$")] = "auto"
    """ISO 639, of the references (und: several): what ROUGE and BLEU count as words. auto finds it, and says so."""
    bleu_tokens: Literal["13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "flores200", "none"] | None = None
    """sacrebleu's tokenizer; null takes that of the language."""
    max_new_tokens: Positive = 64
    batch_size: Positive = 64
    seed: NonNegative = 0
