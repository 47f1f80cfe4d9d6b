"""Tables that `dvc plots` draws of an evaluation: how long completions are, how much of the references they hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf.evaluation.text import split_words
from tasks.files import write_curve, write_text

ROUGE = ("rouge1", "rouge2", "rougeL")


def write_lengths(path: Path, completions: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Writes, for every number of words from none to the longest, the share of each model's completions.

    Args:
        path: the CSV, with the columns `words` and one per model.
        completions: model -> the sampled texts of each prompt.
    """
    counts = {
        model: Counter(len(split_words(text)) for texts in rows for text in texts)
        for model, rows in completions.items()
    }
    longest = max(max(count) for count in counts.values())
    write_curve(
        path,
        [
            {"words": words, **{model: count[words] / count.total() for model, count in counts.items()}}
            for words in range(longest + 1)
        ],
    )


def write_rouge(path: Path, metrics: Mapping[str, float], models: Sequence[str]) -> None:
    """Writes a row per ROUGE and model, by the key of the metric: the form that bars are drawn from."""
    keys = [f"{model}.{name}" for name in ROUGE for model in models]
    rows = [f"{key},{metrics[key]:.6g}\n" for key in keys]
    write_text(path, "".join(["score,F1\n", *rows]))
