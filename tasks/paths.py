"""Where things lie: the one place that knows the folder layout."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Every file and folder of a workspace, from its root."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def source(self) -> Path:
        """Demonstrations and prompts that the team brings; read by ingest."""
        return self.data / "source"

    @property
    def feedback(self) -> Path:
        """Rankings that people gave; a source, never a stage's output."""
        return self.data / "feedback"

    @property
    def raw(self) -> Path:
        return self.data / "raw"

    @property
    def validated(self) -> Path:
        return self.data / "validated"

    @property
    def quarantine(self) -> Path:
        return self.data / "quarantine"

    @property
    def rollouts(self) -> Path:
        return self.data / "rollouts" / "rollouts.jsonl"

    @property
    def rankings(self) -> Path:
        return self.data / "rankings" / "rankings.jsonl"

    @property
    def pairs(self) -> Path:
        return self.data / "pairs"

    @property
    def models(self) -> Path:
        return self.data / "models"

    @property
    def evaluation(self) -> Path:
        return self.data / "evaluation"

    @property
    def nights(self) -> Path:
        """What nights leave behind for people; git and DVC ignore it."""
        return self.root / "nights"

    @property
    def data_docs(self) -> Path:
        """Great Expectations' HTML; it carries times, so it is no stage's output."""
        return self.nights / "data_docs"

    @property
    def registered(self) -> Path:
        """What register last did; it names versions and runs, so it is no stage's output."""
        return self.root / "nights" / "register.json"

    @property
    def mlruns(self) -> Path:
        return self.root / "mlruns"

    def metrics(self, stage: str) -> Path:
        return self.data / "metrics" / f"{stage}.json"

    def plots(self, stage: str) -> Path:
        return self.data / "plots" / stage
