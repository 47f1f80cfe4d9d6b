"""The stages of a night: their order, the sections of params.yaml each one gets, what it reads and writes.

dvc.yaml is drawn from this table by `nightjar graph`, and a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tasks.stage_files import StageFiles

if TYPE_CHECKING:
    from tasks.params.whole import Params
    from tasks.paths import Paths


@dataclass(frozen=True)
class Stage:
    """One step of the night; paths are relative to the workspace, names are those that the stage uses.

    Attributes:
        inputs: what it may read.
        outputs: what it writes beside its metrics.
        aside: what it writes that differs from run to run, so that it is no output.
        loads_model: whether it gets the section `model` beside its own.
        has_section: whether params.yaml has a section for it.
        curves: whether it writes tables of curves to data/plots, its output `plots`.
        code: project files that it runs without importing them.
        versioned: False where it changes the world outside, so that DVC does not know it.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    aside: Mapping[str, str] = field(default_factory=dict)
    loads_model: bool = False
    has_section: bool = True
    curves: bool = False
    code: tuple[str, ...] = ()
    versioned: bool = True

    @property
    def reads(self) -> tuple[str, ...]:
        """The paths of the inputs."""
        return tuple(self.inputs.values())

    @property
    def writes(self) -> tuple[str, ...]:
        """The paths of the outputs."""
        return tuple(self.outputs.values())


STAGES: dict[str, Stage] = {
    "ingest": Stage({"source": "data/source", "feedback": "data/feedback"}, {"raw": "data/raw"}),
    "validate": Stage(
        {"raw": "data/raw", "feedback": "data/feedback"},
        {
            "train": "data/validated/train",
            "dev": "data/validated/dev",
            "test": "data/validated/test",
            "rankings": "data/validated/feedback",
            "quarantine": "data/quarantine",
        },
        aside={"docs": "nights/data_docs"},
        loads_model=True,
    ),
    "sft": Stage(
        {"train": "data/validated/train", "dev": "data/validated/dev", "champion": "data/champion"},
        {"model": "data/models/sft"},
        aside={"bad_batches": "nights/bad_batches/sft.jsonl"},
        loads_model=True,
        curves=True,
    ),
    "rollouts": Stage(
        {"sft": "data/models/sft", "train": "data/validated/train"}, {"rollouts": "data/rollouts"}, loads_model=True
    ),
    "rank": Stage({"rollouts": "data/rollouts", "feedback": "data/validated/feedback"}, {"rankings": "data/rankings"}),
    "pairs": Stage(
        {"rankings": "data/rankings"},
        {"pairs": "data/pairs"},
        aside={"docs": "nights/data_docs"},
    ),
    "reward": Stage(
        {"pairs": "data/pairs", "sft": "data/models/sft"},
        {"reward": "data/models/reward", "judge": "data/models/judge"},
        aside={"bad_batches": "nights/bad_batches/reward.jsonl"},
        loads_model=True,
        curves=True,
    ),
    "policy": Stage(
        {
            "sft": "data/models/sft",
            "reward": "data/models/reward",
            "judge": "data/models/judge",
            "pairs": "data/pairs",
            "train": "data/validated/train",
            "dev": "data/validated/dev",
        },
        {"policy": "data/models/policy"},
        aside={"checkpoint": "nights/checkpoints/policy.pt", "bad_batches": "nights/bad_batches/policy.jsonl"},
        loads_model=True,
        curves=True,
    ),
    "evaluate": Stage(
        {
            "test": "data/validated/test",
            "train": "data/validated/train",
            "sft": "data/models/sft",
            "policy": "data/models/policy",
            "reward": "data/models/reward",
            "judge": "data/models/judge",
            "train_pairs": "data/pairs/train.jsonl",
            "dev_pairs": "data/pairs/dev.jsonl",
            "judge_pairs": "data/pairs/judge.jsonl",
        },
        {"evaluation": "data/evaluation"},
        loads_model=True,
        curves=True,
    ),
    "report": Stage(
        {
            "sft_plots": "data/plots/sft",
            "reward_plots": "data/plots/reward",
            "policy_plots": "data/plots/policy",
            "evaluate_plots": "data/plots/evaluate",
            "policy": "data/models/policy",
            "evaluation": "data/evaluation",
        },
        {"reports": "data/reports"},
        has_section=False,
    ),
    "register": Stage(
        {
            "policy": "data/models/policy",
            "reward": "data/models/reward",
            "judge": "data/models/judge",
            "evaluation": "data/evaluation",
            "metrics": "data/metrics/evaluate.json",
            "reward_metrics": "data/metrics/reward.json",
            "rankings": "data/rankings",
            "train": "data/validated/train",
            "dev": "data/validated/dev",
            "test": "data/validated/test",
        },
        {},
        loads_model=True,
        versioned=False,
    ),
}

VERSIONED = tuple(name for name, stage in STAGES.items() if stage.versioned)


def files(stage: str, paths: Paths) -> StageFiles:
    """The paths of a stage's inputs and outputs in a workspace."""
    row = check(stage)
    inputs, outputs, aside = (
        {name: paths.root / path for name, path in each.items()} for each in (row.inputs, row.outputs, row.aside)
    )
    return StageFiles(paths.root, inputs, outputs | ({"plots": paths.plots(stage)} if row.curves else {}), aside)


def made_by(stage: str) -> tuple[str, ...]:
    """The paths of all that a stage writes: its outputs, its metrics, and its curves where it has some."""
    return (*STAGES[stage].writes, f"data/metrics/{stage}.json", f"data/plots/{stage}")


def sections(stage: str) -> list[str]:
    """The sections of params.yaml that a stage gets: its own, and `model` where it loads one."""
    row = check(stage)
    return [stage] * row.has_section + ["model"] * row.loads_model


def check(stage: str) -> Stage:
    """The stage of this name; raises ValueError that lists the names there are."""
    if stage not in STAGES:
        raise ValueError(f"{stage}: no such stage; the stages are {', '.join(STAGES)}")
    return STAGES[stage]


def check_sections(params: Params) -> None:
    """Raises ValueError when params.yaml lacks a stage's section, which DVC could then not compare."""
    given = {type(params).model_fields[name].alias or name for name in params.model_fields_set}
    missing = [name for name in VERSIONED if STAGES[name].has_section and name not in given]
    if missing:
        lines = "".join(f"\n  {name}: {{}}" for name in missing)
        raise ValueError(
            f"params.yaml lacks a section that DVC compares from night to night; add, for the defaults:{lines}"
        )
