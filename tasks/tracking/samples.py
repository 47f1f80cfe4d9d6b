"""What a person looks at after a stage: a few rows as tables, and the pictures and pages that it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from tasks.files import read_rows
from tasks.paths import Paths
from tasks.roles import POLICIES

MAX_ROWS = 200
SAMPLES = "samples.jsonl"
"""Below data/evaluation: the sampled completions of each test prompt with their scores, which win rates are made of."""
PROMPTS_OF_ROLLOUTS = 10
PICTURES = {".png", ".svg", ".csv", ".html"}


def tables(stage: str, paths: Paths) -> dict[str, dict[str, list[Any]]]:
    """Tables by name, each a dict of equally long columns; a stage without samples has none."""
    if stage == "rollouts" and paths.rollouts.is_file():
        rows = [row for _, rollout in islice(read_rows(paths.rollouts), PROMPTS_OF_ROLLOUTS) for row in _each(rollout)]
        return {"rollouts": _columns(rows)}
    if stage == "evaluate" and paths.evaluation.is_dir():
        return {file.stem: _columns(list(islice(_shown(file), MAX_ROWS))) for file in complete_files(stage, paths)}
    return {}


def complete_files(stage: str, paths: Paths) -> list[Path]:
    """The files that are logged with every row, for comparisons: those of the evaluation."""
    files = sorted(paths.evaluation.glob("*.jsonl")) if stage == "evaluate" else []
    return [file for file in files if file.stat().st_size]


def intervals(stage: str, paths: Paths) -> dict[str, float]:
    """The ends of the 95 % interval of each model's mean score: `policy.gold_low`, `policy.gold_high`."""
    file = paths.evaluation / SAMPLES
    if stage != "evaluate" or not file.is_file():
        return {}
    from rlhf.evaluation.intervals import mean_interval

    rows = [row for _, row in read_rows(file)]
    ends: dict[str, float] = {}
    for model in POLICIES:
        for scorer in rows[0][model]["scores"]:
            interval = mean_interval([fmean(row[model]["scores"][scorer]) for row in rows])
            ends |= {f"{model}.{scorer}_low": interval.low, f"{model}.{scorer}_high": interval.high}
    return ends


def plots(stage: str, paths: Paths) -> list[Path]:
    """The curves of a stage, or the pictures and pages of the whole night, in a fixed order."""
    folder = paths.reports if stage == "report" else paths.plots(stage)
    files = sorted(folder.rglob("*")) if folder.is_dir() else []
    return [file for file in files if file.is_file() and file.suffix in PICTURES]


def _each(rollout: dict[str, Any]) -> Iterator[dict[str, Any]]:
    shown = ("text", "finish_reason", "tokens", "logprob", "seed")
    for completion in rollout["completions"]:
        yield {"prompt": rollout["prompt"], **{name: completion[name] for name in shown}}


def _shown(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file as people read them: a completion a row where the file holds several of each model."""
    for _, row in read_rows(file):
        if file.name != SAMPLES:
            yield row
            continue
        for model in POLICIES:
            for index, text in enumerate(row[model]["texts"]):
                scores = {scorer: values[index] for scorer, values in row[model]["scores"].items()}
                yield {"id": row["id"], "prompt": row["prompt"], "model": model, "text": text, **scores}


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; what is nested becomes JSON text, for MLflow's tables show plain cells."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [_cell(row.get(name)) for row in rows] for name in names}


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
