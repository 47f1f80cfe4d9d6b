"""The table of stages, and what a stage is handed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tasks import runner, stages
from tasks.params.whole import read_params
from tasks.paths import Paths


@pytest.mark.parametrize(
    ("stage", "sections"),
    [("sft", ["sft", "model"]), ("validate", ["validate", "model"]), ("pairs", ["pairs"])],
)
def test_a_stage_gets_its_own_sections_and_its_metrics_are_written(
    toy: Path, monkeypatch: pytest.MonkeyPatch, stage: str, sections: list[str]
) -> None:
    """Its own section first, then `model` where it loads one; the returned metrics become its file."""
    seen: list[Any] = []
    module = ModuleType(f"tasks.{stage}")
    module.run = lambda *given: seen.append(given) or {"loss": 0.5}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, f"tasks.{stage}", module)
    paths, params = Paths(toy), read_params(toy / "params.yaml")
    assert runner.run_stage(stage, paths, params) == {"loss": 0.5}
    assert seen == [(stages.files(stage, paths), *(params.section(name) for name in sections))]
    assert json.loads((toy / f"data/metrics/{stage}.json").read_text()) == {"loss": 0.5}


def test_an_unknown_stage_lists_the_stages() -> None:
    """The error says what there is."""
    with pytest.raises(ValueError, match="train: no such stage; the stages are ingest, validate, sft"):
        stages.sections("train")


def test_a_missing_section_is_an_error_with_the_lines_to_add(toy: Path) -> None:
    """DVC compares each stage's section, so each must stand in params.yaml, if only empty."""
    file = toy / "params.yaml"
    stages.check_sections(read_params(file))
    file.write_text(file.read_text().replace("validate: {}\n", "").replace("pairs: {}\n", ""))
    with pytest.raises(ValueError, match=r"add, for the defaults:\n  validate: \{\}\n  pairs: \{\}$"):
        stages.check_sections(read_params(file))
