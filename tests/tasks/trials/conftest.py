"""What the tests of candidates share: a toy workspace with two seeds of two settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.paths import Paths
from tasks.trials.candidates import Candidate, read_candidates

SEVERAL = (
    "night:\n  cron: 0 3 * * *\n  seeds: [1]\n  variants:\n    rloo: {policy: {algorithm: rloo, completions: 4}}\n"
)


@pytest.fixture
def several(toy: Path) -> Paths:
    """The toy with two seeds of two settings."""
    with (toy / "params.yaml").open("a", encoding="utf-8") as file:
        file.write(SEVERAL)
    return Paths(toy)


@pytest.fixture
def named(several: Paths) -> dict[str, Candidate]:
    """Its candidates by name."""
    return {row.name: row for row in read_candidates(several.root / "params.yaml")}
