"""A reward model held to gold: agreement by hand, and the probe with scorers whose answer is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from rlhf.annotator import gold_score, has_gold
from rlhf.corpus import make_prompts
from rlhf.evaluation.gold import agreement, probe_accuracy
from rlhf.records import Message, Prompt
from rlhf.reward import RewardModel


class Known(RewardModel):
    """A reward model whose score is a function of prompt and text."""

    def __init__(self, judge: Callable[[str, str], float | None]) -> None:
        self.judge = judge

    def score(self, prompts: Sequence[Any], completions: Sequence[str], batch_size: int = 64) -> torch.Tensor:
        rows = zip(prompts, completions, strict=True)
        return torch.tensor([float(self.judge(prompt, text) or 0.0) for prompt, text in rows])


def test_gold_is_there_for_the_builtin_corpus_alone() -> None:
    """One prompt of another kind, or a chat, and there is none."""
    prompts = [row.prompt for row in make_prompts(5, seed=0)]
    assert has_gold(prompts)
    assert not has_gold([*prompts, "Tell me a joke"])
    assert not has_gold([*prompts, [Message(role="user", content="name[Quill]")]])


def test_agreement_by_hand() -> None:
    """Gold 1, 0, 1 under scores 5, 2, 1: (5, 2) right, (1, 2) wrong. Gold 0, ½ under 7, 7: a tie. Accuracy ½.

    Chosen 5, 1, 7 against rejected 2, 2, 7: 5 beats 2 and 2; 1 none; 7 beats 2 and 2 and ties 7: 4½ of 9.
    """
    figures = agreement([[5.0, 2.0, 1.0], [7.0, 7.0]], [[1.0, 0.0, 1.0], [0.0, 0.5]])
    assert figures == pytest.approx({"gold_accuracy": 0.5, "gold_auc": 0.5})


def test_agreement_sees_the_order_alone() -> None:
    """Scores that rise with gold agree in full, scores that fall with it not at all."""
    gold = [[0.1, 0.7, 0.4], [0.9, 0.2, 0.3]]
    assert agreement([[3 * value for value in row] for row in gold], gold)["gold_accuracy"] == 1.0
    assert agreement([[-value for value in row] for row in gold], gold)["gold_accuracy"] == 0.0


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    return make_prompts(30, seed=1)


def test_the_probe_tells_who_sees_a_wrong_value(prompts: list[Prompt]) -> None:
    """Gold sees each one; its opposite none; a constant half of them, as every pair is a tie."""
    assert probe_accuracy(Known(gold_score), prompts, seed=0) == 1.0
    assert probe_accuracy(Known(lambda prompt, text: -gold_score(prompt, text)), prompts, seed=0) == 0.0
    assert probe_accuracy(Known(lambda prompt, text: 0.0), prompts, seed=0) == 0.5


def test_the_probe_asks_about_every_reference(prompts: list[Prompt]) -> None:
    """Each of the 90 and its swap, under the prompt that it belongs to."""
    shown: list[tuple[str, str]] = []
    probe_accuracy(Known(lambda prompt, text: shown.append((prompt, text))), prompts, seed=0)
    references = [(row.prompt, text) for row in prompts for text in row.references]
    assert shown[:90] == references
    assert [prompt for prompt, _ in shown[90:]] == [prompt for prompt, _ in references]
    assert all(gold_score(*row) < 1.0 for row in shown[90:])


def test_the_probe_is_a_function_of_its_seed(prompts: list[Prompt]) -> None:
    """The same seed swaps the same values."""
    texts: list[list[str]] = [[], [], []]
    for shown, seed in zip(texts, (3, 3, 4), strict=True):
        probe_accuracy(_noting(shown), prompts, seed)
    assert texts[0] == texts[1] != texts[2]


def _noting(shown: list[str]) -> Known:
    return Known(lambda _, text: shown.append(text))
