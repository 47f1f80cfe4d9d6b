"""Stages that read people's files, as `nightjar stage` runs them, on rows of invented words."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path

from rlhf.settings.model import ModelSettings
from tasks import pairs as pairs_stage
from tasks import stages
from tasks import validate as validate_stage
from tasks.files import write_rows
from tasks.params.pairs import PairsParams
from tasks.params.validate import ValidateParams
from tasks.paths import Paths
from tests.benchmarks.worker import Job, Turns

WORDS = ("alpha", "beta", "gamma", "delta", "omega", "river", "stone", "cloud", "light", "green")


def pairs(job: Job, turn: Turns) -> None:
    """The pairs of so many rankings of two completions."""
    text = _writer()
    rows = (
        {
            "id": f"r{row}",
            "prompt": f"ask {row} {text(8)}",
            "completions": [f"{row} a {text(15)}", f"{row} b {text(15)}"],
            "ranks": [1, 2] if row % 2 else [2, 1],
            "annotator": f"a{row % 7}",
            "split": "any",
        }
        for row in range(job.work.rows)
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths(Path(folder))
        write_rows(paths.rankings, rows)
        files = stages.files("pairs", paths)
        _repeat(lambda: pairs_stage.run(files, PairsParams()), turn)


def validate(job: Job, turn: Turns) -> None:
    """So many demonstrations and as many prompts, for a model from scratch."""
    text, numbers = _writer(), range(job.work.rows)
    with tempfile.TemporaryDirectory() as folder:
        paths = Paths(Path(folder))
        asked = [f"ask {row} {text(8)}" for row in numbers]
        for name, field in (("demonstrations", "response"), ("prompts", "references")):
            rows = ({"id": f"{name}{row}", "prompt": asked[row], field: text(15)} for row in numbers)
            write_rows(
                paths.raw / f"{name}.jsonl",
                (row if field == "response" else row | {field: [row[field]]} for row in rows),
            )
        paths.feedback.mkdir(parents=True)
        files = stages.files("validate", paths)
        model = ModelSettings(config={"model_type": "llama"})
        _repeat(lambda: validate_stage.run(files, ValidateParams(), model), turn)


def _repeat(run: Callable[[], object], turn: Turns) -> None:
    import great_expectations  # noqa: F401 - what it costs to import is no part of a repetition

    turn()
    while True:
        run()
        turn()


def _writer() -> Callable[[int], str]:
    """Texts of so many words, the same ones in every process."""
    draw = random.Random(0)
    return lambda count: " ".join(draw.choice(WORDS) for _ in range(count))
