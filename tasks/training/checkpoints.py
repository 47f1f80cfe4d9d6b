"""Checkpoints of long training: what an interrupted run resumes from.

They are kept below nights/, for a stage's outputs are gone while it runs, and are valid for the very inputs and
params that made them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tasks.digests import digest


@dataclass(frozen=True)
class Checkpoint:
    """One file with a run's state, and the digest of what the run depends on."""

    path: Path
    key: str

    @classmethod
    def of(cls, path: Path, inputs: Sequence[Path], params: Sequence[BaseModel]) -> Checkpoint:
        """The checkpoint at this path of a run on these inputs (files or folders; missing ones are skipped)."""
        parts = [digest(each) for each in inputs if each.exists()]
        parts += [section.model_dump_json() for section in params]
        return cls(path, hashlib.sha256("\n".join(parts).encode()).hexdigest())

    def load(self) -> dict[str, Any] | None:
        """The state to resume from; None where there is none, or one of other inputs or params."""
        import torch

        if not self.path.is_file():
            return None
        saved: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        return saved["state"] if saved["key"] == self.key else None

    def save(self, state: dict[str, Any]) -> None:
        """Writes the state atomically: to a temporary file, which is then renamed."""
        import torch

        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        torch.save({"key": self.key, "state": state}, partial)
        os.replace(partial, self.path)

    def delete(self) -> None:
        """Removes the file, once the run has ended well."""
        self.path.unlink(missing_ok=True)
