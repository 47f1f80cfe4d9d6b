"""The part of evaluate that has the reward model score texts that no night writes: what it thinks of them may drift.

Of each test prompt one text: its first reference, or the first half of it, whichever its digest says. So the texts
differ in worth, are the same as long as the prompts are, and do not depend on each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlhf.records import Prompt, prompt_key, prompt_text

if TYPE_CHECKING:
    from rlhf.reward import RewardModel

MAX_TEXTS = 300
"""Those whose prompts have the smallest digests: other prompts that come or go leave most of them in place."""


def score(reward: RewardModel, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """A row per text: `id`, `prompt`, `text`, and its `reward`."""
    chosen = sorted(prompts, key=_digest)[:MAX_TEXTS]
    texts = [text_of(row) for row in chosen]
    scores = reward.score([row.prompt for row in chosen], texts).tolist()
    return [
        {"id": row.id, "prompt": prompt_text(row.prompt), "text": text, "reward": value}
        for row, text, value in zip(chosen, texts, scores, strict=True)
    ]


def text_of(row: Prompt) -> str:
    """The text that is scored for a prompt with references."""
    reference = row.references[0]
    # The last byte, for the first ones say which texts are scored.
    return reference if _digest(row)[-1] % 2 else reference[: len(reference) // 2].rstrip()


def _digest(row: Prompt) -> bytes:
    return hashlib.sha256(prompt_key(row.prompt).encode()).digest()
