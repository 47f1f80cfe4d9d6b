"""The stages of a night: their order, the sections of params.yaml each one gets, what it reads and writes.

dvc.yaml is drawn from this table by `nightjar graph`, and a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from rlhf.settings.base import Settings
from tasks.files import write_json
from tasks.params.whole import Params
from tasks.paths import Paths


@dataclass(frozen=True)
class Stage:
    """One step of the night; paths are relative to the workspace.

    `loads_model` stages get the `model` section beside their own. `code` are project files that a
    stage runs without importing them. A stage that is not `versioned` changes the world outside, so
    DVC does not know it.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    loads_model: bool = False
    curves: bool = False
    code: tuple[str, ...] = ()
    versioned: bool = True


STAGES: dict[str, Stage] = {
    "ingest": Stage(("data/source", "data/feedback"), ("data/raw",)),
    "validate": Stage(
        ("data/raw", "data/feedback"),
        (
            "data/validated/train",
            "data/validated/dev",
            "data/validated/test",
            "data/validated/feedback",
            "data/quarantine",
        ),
        loads_model=True,
    ),
    "sft": Stage(
        ("data/validated/train", "data/validated/dev", "data/champion"),
        ("data/models/sft",),
        loads_model=True,
        curves=True,
    ),
    "rollouts": Stage(("data/models/sft", "data/validated/train"), ("data/rollouts",), loads_model=True),
    "rank": Stage(("data/rollouts", "data/validated/feedback"), ("data/rankings",)),
    "pairs": Stage(("data/rankings", "data/models/sft/tokenizer.json"), ("data/pairs",)),
    "reward": Stage(
        ("data/pairs", "data/models/sft"),
        ("data/models/reward", "data/models/judge"),
        loads_model=True,
        curves=True,
    ),
    "policy": Stage(
        ("data/models/sft", "data/models/reward", "data/models/judge", "data/validated/train", "data/validated/dev"),
        ("data/models/policy",),
        loads_model=True,
        curves=True,
    ),
    "evaluate": Stage(
        (
            "data/validated/test",
            "data/validated/train",
            "data/models/sft",
            "data/models/policy",
            "data/models/reward",
            "data/models/judge",
            "data/pairs/train.jsonl",
            "data/pairs/dev.jsonl",
            "data/pairs/judge.jsonl",
        ),
        ("data/evaluation",),
        loads_model=True,
        curves=True,
    ),
    "register": Stage(
        (
            "data/models/policy",
            "data/models/reward",
            "data/models/judge",
            "data/evaluation",
            "data/metrics/evaluate.json",
            "data/rankings",
            "data/validated/test",
        ),
        (),
        loads_model=True,
        versioned=False,
    ),
}

VERSIONED = tuple(name for name, stage in STAGES.items() if stage.versioned)


def sections(stage: str) -> list[str]:
    """The sections of params.yaml that a stage gets: its own, and `model` where it loads one."""
    return [stage, "model"] if check(stage).loads_model else [stage]


def check(stage: str) -> Stage:
    """The stage of this name; raises ValueError that lists the names there are."""
    if stage not in STAGES:
        raise ValueError(f"{stage}: no such stage; the stages are {', '.join(STAGES)}")
    return STAGES[stage]


def check_sections(params: Params) -> None:
    """Raises ValueError when params.yaml lacks a stage's section, which DVC could then not compare."""
    given = {Params.model_fields[field].alias or field for field in params.model_fields_set}
    missing = [name for name in VERSIONED if name not in given]
    if missing:
        lines = "".join(f"\n  {name}: {{}}" for name in missing)
        raise ValueError(
            f"params.yaml lacks a section that DVC compares from night to night; add, for the defaults:{lines}"
        )


def run_stage(stage: str, paths: Paths, params: Params) -> dict[str, float]:
    """Runs one stage on its own sections of the params and writes its metrics.

    Raises:
        ValueError: there is no such stage, or the stage refuses what it found.
    """
    if check(stage).loads_model and params.model.threads is not None:
        import torch

        torch.set_num_threads(params.model.threads)
    settings: list[Settings] = [params.section(name) for name in sections(stage)]
    metrics: dict[str, float] = import_module(f"tasks.{stage}").run(paths, *settings)
    write_json(paths.metrics(stage), metrics)
    return metrics
