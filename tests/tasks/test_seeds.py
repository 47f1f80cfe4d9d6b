"""Several seeds: what changes with the seed, and how the figures are told."""

from __future__ import annotations

from pathlib import Path

from tasks import seeds
from tasks.params import read_params


def test_a_seed_reaches_every_section_that_has_one(repository: Path) -> None:
    """And nothing else changes."""
    params = read_params(repository / "presets" / "tiny.yaml")
    seeded = seeds.with_seed(params, 42)
    for name in ("ingest", "validate", "sft", "rollouts", "rank", "pairs", "reward", "ppo", "evaluate"):
        assert seeded.section(name).model_dump()["seed"] == 42, name
        assert seeded.section(name).model_copy(update={"seed": 0}) == params.section(name), name
    assert seeded.model == params.model


def test_the_table_has_a_column_per_seed_and_the_median() -> None:
    """Of 0.2, 0.9 and 0.4 the median is 0.4; a figure that no seed has is left out."""
    lines = seeds.render([3, 5, 7], [{"policy.gold": value} for value in (0.2, 0.9, 0.4)]).splitlines()
    assert lines[0].split() == ["seed", "3", "seed", "5", "seed", "7", "median"]
    assert lines[1].split()[-4:] == ["0.200", "0.900", "0.400", "0.400"]
    assert len(lines) == 2
