"""Canaries: a few fixed prompts that each night's policy answers, beside the champion that it may follow.

Reads data/models/policy and data/validated/test; the champion comes from the registry. Nothing is decided by them:
they are for people to read (tasks/reports/canaries.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rlhf.records import Prompt, PromptText, prompt_text
from rlhf.settings.model import ModelSettings
from tasks.files import read_records
from tasks.paths import Paths
from tasks.trials.rematch import load_champion


def answer(paths: Paths, wanted: int | Sequence[str], champion: Any, model: ModelSettings) -> list[dict[str, Any]]:
    """Both models' likeliest answers, of the length that evaluate allows.

    Args:
        paths: the workspace, evaluated.
        wanted: the prompts, or how many of the first test prompts.
        champion: the policy version in the registry; None where there is no other than this policy.
        model: on what device they run.

    Returns:
        A row for each prompt, as `tasks.reports.canaries.markdown` takes them; none without prompts.
    """
    if not (prompts := choose(paths, wanted)):
        return []

    from rlhf.evaluation.answers import greedy_answers
    from rlhf.models import load_policy

    sampling = json.loads((paths.evaluation / "scores.json").read_text(encoding="utf-8"))["sampling"]
    drawn = sampling["max_new_tokens"], sampling["batch_size"]
    texts: list[str | None] = [*greedy_answers(load_policy(paths.models / "policy", model), prompts, *drawn)]
    others: list[str | None] = [None] * len(prompts)
    if champion is not None:
        others = [*greedy_answers(load_champion(paths, champion, model), prompts, *drawn)]
    version = None if champion is None else int(champion.version)
    return [
        {"prompt": prompt_text(prompt), "policy": text, "champion": other, "version": version}
        for prompt, text, other in zip(prompts, texts, others, strict=True)
    ]


def choose(paths: Paths, wanted: int | Sequence[str]) -> list[PromptText]:
    """The prompts that are named, or the first test prompts."""
    if not isinstance(wanted, int):
        return [*wanted]
    rows = read_records(paths.validated / "test" / "prompts.jsonl", Prompt) if wanted else []
    return [row.prompt for row in rows[:wanted]]
