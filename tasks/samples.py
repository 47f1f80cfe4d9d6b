"""What a person looks at after a stage: a few rows as tables, and the pictures and pages that it wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.files import read_rows
from tasks.paths import Paths

MAX_ROWS = 200
PROMPTS_OF_ROLLOUTS = 10
PICTURES = {".png", ".svg", ".csv", ".html"}


def tables(stage: str, paths: Paths) -> dict[str, dict[str, list[Any]]]:
    """Tables by name, each a dict of equally long columns; a stage without samples has none."""
    if stage == "rollouts" and paths.rollouts.is_file():
        rows = [row for _, rollout in islice(read_rows(paths.rollouts), PROMPTS_OF_ROLLOUTS) for row in _each(rollout)]
        return {"rollouts": _columns(rows)}
    if stage == "evaluate" and paths.evaluation.is_dir():
        files = [file for file in sorted(paths.evaluation.glob("*.jsonl")) if file.stat().st_size]
        return {file.stem: _columns([row for _, row in islice(read_rows(file), MAX_ROWS)]) for file in files}
    return {}


def plots(stage: str, paths: Paths) -> list[Path]:
    """The pictures, curves and pages of a stage, in a fixed order."""
    places = [paths.plots(stage)] + [paths.evaluation] * (stage == "evaluate")
    found = (file for place in places if place.is_dir() for file in sorted(place.rglob("*")))
    return [file for file in found if file.is_file() and file.suffix in PICTURES]


def _each(rollout: dict[str, Any]) -> Iterator[dict[str, Any]]:
    shown = ("text", "finish_reason", "tokens", "logprob", "seed")
    for completion in rollout["completions"]:
        yield {"prompt": rollout["prompt"], **{name: completion[name] for name in shown}}


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; what is nested becomes JSON text, for MLflow's tables show plain cells."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [_cell(row.get(name)) for row in rows] for name in names}


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
