"""The part of evaluate that puts demonstrations into the prompt: base model, SFT and policy with 0, 1, … of them.

Reads data/validated/train; evaluate writes what came of it to data/evaluation/few_shot.jsonl. Off where evaluate.shots
is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.records import Demonstration, Prompt, prompt_text
from tasks.files import read_records
from tasks.params.evaluate import EvaluateParams

if TYPE_CHECKING:
    from rlhf.evaluation.language import Tokenization
    from rlhf.models import Policy


@dataclass
class FewShot:
    """The test: prompts with the demonstrations drawn for each, and (filled in by `measure`) what came of it."""

    params: EvaluateParams
    prompts: list[Prompt]
    demonstrations: list[list[Demonstration]]
    gold: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: int = 0

    @property
    def counts(self) -> list[int]:
        """The numbers of shots, rising."""
        return sorted(set(self.params.shots))


def prepare(train_split: Path, params: EvaluateParams, prompts: list[Prompt], gold: bool) -> FewShot:
    """Draws each prompt's demonstrations; raises ValueError when train has too few."""
    if not params.shots:
        return FewShot(params, prompts, [], gold)

    from rlhf.evaluation.few_shot import draw_shots

    train = read_records(train_split / "demonstrations.jsonl", Demonstration)
    drawn = draw_shots([row.prompt for row in prompts], train, max(params.shots), params.seed)
    return FewShot(params, prompts, drawn, gold)


def measure(test: FewShot, policies: Mapping[str, Policy], tokens: Tokenization) -> Iterator[dict[str, float]]:
    """Answers greedily with each number of shots, yielding the figures of each model as they come."""
    from statistics import fmean

    from rlhf.annotator import gold_score
    from rlhf.evaluation.bleu import bleu
    from rlhf.evaluation.few_shot import encode_shots, greedy_continuations
    from rlhf.evaluation.rouge import rouge

    limit, references = test.params.max_new_tokens, [row.references for row in test.prompts]
    for count in test.counts:
        shown = [drawn[len(drawn) - count :] for drawn in test.demonstrations]
        answers = {}
        for name, policy in policies.items():
            contexts = [
                encode_shots(policy, row.prompt, shots, limit) for row, shots in zip(test.prompts, shown, strict=True)
            ]
            texts = greedy_continuations(policy, [row.tokens for row in contexts], limit, test.params.batch_size)
            figures = {
                "rougeL": rouge(texts, references, words=tokens.words)["rougeL"],
                "bleu": bleu(texts, references, tokenize=tokens.bleu),
            }
            if test.gold:
                figures["gold"] = fmean(map(gold_score, (str(row.prompt) for row in test.prompts), texts))
            answers[name] = texts
            test.dropped += sum(row.dropped for row in contexts)
            yield {f"{name}.shot{count}.{key}": value for key, value in figures.items()} | {
                "shots_dropped": float(test.dropped)
            }
        for index, row in enumerate(test.prompts):
            test.rows.append(
                {
                    "id": row.id,
                    "shots": count,
                    "prompt": prompt_text(row.prompt),
                    "demonstrations": [shot.id for shot in shown[index]],
                    "references": row.references,
                    **{name: texts[index] for name, texts in answers.items()},
                }
            )


def signature(test: FewShot, base: bool) -> str:
    """With what the figures were computed; a base built from a config is left out, for it knows nothing before SFT."""
    counts = ",".join(map(str, test.counts))
    return (
        f"shots:{counts}|decoding:greedy|drawn:train, seed {test.params.seed}, more add to fewer"
        f"|base:{'model.name' if base else 'none, built from model.config'}"
    )
