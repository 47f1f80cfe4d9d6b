"""The room that prompts and completions need in a model's context."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.models import Policy
from rlhf.records import Sampling


def check_context(policy: Policy, prompts: Sequence[Sequence[int]], sampling: Sequence[Sampling]) -> None:
    """Raises ValueError when a prompt and its completion exceed the context: together, or each where both have one."""
    config = policy.model.config
    context = getattr(config, "max_position_embeddings", None)
    together = max if config.is_encoder_decoder else sum
    longest = max(
        together((len(prompt), settings.max_new_tokens)) for prompt, settings in zip(prompts, sampling, strict=True)
    )
    if context is not None and longest > context:
        raise ValueError(
            f"a prompt and its completion take {longest} tokens, but the model's context is {context}; "
            "lower max_new_tokens or shorten the prompts"
        )
