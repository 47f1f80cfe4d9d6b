"""Several seeds: what changes with the seed, and how the figures are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf.settings.adapters import AdapterSettings
from tasks.files import write_json
from tasks.params.night import UNCHANGED
from tasks.params.whole import Params, read_params
from tasks.paths import Paths
from tasks.stages import STAGES, VERSIONED
from tasks.trials import seeds
from tasks.trials.candidates import read_variants


def test_a_seed_reaches_every_section_that_has_one(repository: Path) -> None:
    """And nothing else changes."""
    params = read_params(repository / "presets" / "tiny.yaml")
    seeded = seeds.with_seed(params, 42)
    for name in ("ingest", "validate", "sft", "rollouts", "rank", "pairs", "reward", "policy", "evaluate"):
        assert seeded.section(name).model_dump()["seed"] == 42, name
        assert seeded.section(name).model_copy(update={"seed": 0}) == params.section(name), name
    assert seeded.model == params.model


def test_the_table_has_a_column_per_seed_and_the_median() -> None:
    """Of 0.2, 0.9 and 0.4 the median is 0.4; a figure that no seed has is left out."""
    results = {UNCHANGED: [{"policy.gold": value} for value in (0.2, 0.9, 0.4)]}
    lines = seeds.render([3, 5, 7], results).splitlines()
    assert lines[0].split() == ["seed", "3", "seed", "5", "seed", "7", "median"]
    assert lines[1].split()[-4:] == ["0.200", "0.900", "0.400", "0.400"]
    assert len(lines) == 2


def test_variants_have_a_column_each_with_mean_and_deviation() -> None:
    """Of 1 and 2 the mean is 1.5 and the deviation √½; a variant without a figure leaves its cell empty."""
    results = {"full": [{"policy.gold": 1.0}, {"policy.gold": 2.0}], "lora": [{}, {}]}
    lines = seeds.render([0, 1], results).splitlines()
    assert lines[0].split() == ["full", "lora"]
    assert lines[1].split()[-3:] == ["1.500", "±", "0.707"]


def test_what_variants_share_is_trained_once_a_seed(tmp_path: Path, repository: Path) -> None:
    """A variant of policy takes over all before it, one of sft starts there; the figures are each one's own."""
    (tmp_path / "data" / "source").mkdir(parents=True)
    (tmp_path / "data" / "feedback").mkdir()
    file = tmp_path / "variants.yaml"
    file.write_text("full: {}\nlora: {policy: {adapter: {rank: 4}}}\nshort: {sft: {steps: 7}}\n", encoding="utf-8")
    variants = read_variants(file, repository / "presets" / "tiny.yaml")
    assert variants["lora"].policy.adapter == AdapterSettings(rank=4)
    assert variants["lora"].policy.iterations == variants["full"].policy.iterations
    ran: list[tuple[str, str]] = []

    def run_stage(stage: str, paths: Paths, params: Params) -> None:
        ran.append((paths.root.name, stage))
        for name in STAGES[stage].writes:
            write_json(paths.root / name / "out.json", {"by": paths.root.name})
        write_json(paths.metrics(stage), {f"{stage}.steps": params.sft.steps})

    results = seeds.run_seeds(Paths(tmp_path), variants, [0], run_stage)
    assert [stage for name, stage in ran if name == "full"] == list(VERSIONED)
    assert [stage for name, stage in ran if name == "lora"] == ["policy", "evaluate"]
    assert [stage for name, stage in ran if name == "short"] == list(VERSIONED[VERSIONED.index("sft") :])
    default = variants["full"].sft.steps
    assert [results[name][0]["evaluate.steps"] for name in variants] == [default, default, 7]
    home = tmp_path / "nights" / "seeds" / "0"
    by = {name: json.loads((home / name / "data/models/sft/out.json").read_text())["by"] for name in variants}
    assert by == {"full": "full", "lora": "full", "short": "short"}


def test_a_variant_that_params_do_not_know_is_named(tmp_path: Path, repository: Path) -> None:
    """The file, the variant and the param are in the error."""
    file = tmp_path / "variants.yaml"
    file.write_text("odd: {policy: {iteration: 3}}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"variants.yaml: odd: policy.iteration"):
        read_variants(file, repository / "presets" / "tiny.yaml")
