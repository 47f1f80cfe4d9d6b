"""What a stage is handed: the paths of its inputs and outputs, by the names in the table of stages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class StageFiles(NamedTuple):
    """The files of one stage in one workspace.

    Attributes:
        root: the workspace; params name sources by their path from it.
        inputs: files and folders that the stage may read.
        outputs: files and folders that it writes, `plots` among them where it has curves.
        aside: what it writes that is no output, since it differs from run to run: checkpoints, bad batches, Data Docs.
    """

    root: Path
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    aside: Mapping[str, Path]
