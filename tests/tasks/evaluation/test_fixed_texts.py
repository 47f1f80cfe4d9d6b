"""The texts that every night's reward model scores: which they are, and that they stay."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import torch

from rlhf.records import Prompt
from rlhf.reward import load_reward_model
from tasks.evaluation import fixed_texts
from tasks.params.whole import Params
from tasks.paths import Paths


class Length:
    """A reward model that likes long texts."""

    def score(self, prompts: Sequence[str], texts: Sequence[str]) -> torch.Tensor:
        assert len(prompts) == len(texts)
        return torch.tensor([float(len(text)) for text in texts])


def prompts(count: int) -> list[Prompt]:
    return [Prompt(id=str(n), prompt=f"prompt {n}", references=[f"a text, {n:04}", "another"]) for n in range(count)]


def test_a_text_is_the_first_reference_or_half_of_it() -> None:
    """12 or 6 characters, about as many of each; its own prompt alone decides."""
    texts = [fixed_texts.text_of(row) for row in prompts(200)]
    halves = [row.references[0][:6].rstrip() for row in prompts(200)]
    assert all(text in (row.references[0], half) for text, row, half in zip(texts, prompts(200), halves, strict=True))
    assert 70 < sum(text == half for text, half in zip(texts, halves, strict=True)) < 130
    assert fixed_texts.text_of(prompts(200)[7]) == fixed_texts.text_of(prompts(8)[7])


def test_most_texts_stay_when_prompts_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of 60 prompts are scored; with 5 % more, at least eight of them again. The order of the rows is no matter."""
    monkeypatch.setattr(fixed_texts, "MAX_TEXTS", 10)
    before, after = (fixed_texts.score(Length(), prompts(count)) for count in (60, 63))  # type: ignore[arg-type]
    assert len(before) == len(after) == 10
    assert len({row["id"] for row in before} & {row["id"] for row in after}) >= 8
    assert fixed_texts.score(Length(), prompts(60)[::-1]) == before  # type: ignore[arg-type]
    assert all(row["reward"] == len(row["text"]) for row in before)


def test_a_night_leaves_what_its_reward_model_says(small_night: Paths, night_params: Params) -> None:
    """Scored again, each text has the score that is written beside it."""
    rows = [json.loads(line) for line in (small_night.evaluation / "fixed_texts.jsonl").read_text().splitlines()]
    assert rows
    reward = load_reward_model(small_night.models / "reward", night_params.model)
    scores = reward.score([row["prompt"] for row in rows], [row["text"] for row in rows]).tolist()
    assert [row["reward"] for row in rows] == pytest.approx(scores, abs=1e-5)
