"""The folder layout, which no other module knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Every file and folder of a workspace, from its root.

    A candidate of a night works in a workspace of its own and leaves its runs and reports with the one that it belongs
    to: `home`, which is the workspace itself where none is given.
    """

    root: Path
    home: Path | None = None

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def source(self) -> Path:
        """The team's demonstrations and prompts; read by ingest."""
        return self.data / "source"

    @property
    def feedback(self) -> Path:
        """Rankings that people gave; a source, never a stage's output."""
        return self.data / "feedback"

    @property
    def champion(self) -> Path:
        """The champion's checkpoint, copied here for a night that starts from it."""
        return self.data / "champion"

    @property
    def external(self) -> tuple[Path, ...]:
        """The folders that no stage writes; each holds a note for people, README.md, that DVC ignores."""
        return self.source, self.feedback, self.champion

    @property
    def raw(self) -> Path:
        return self.data / "raw"

    @property
    def received(self) -> Path:
        """Unchanged copies of the files that people gave: what a night is restored from."""
        return self.raw / "received"

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
    def reports(self) -> Path:
        """Pictures and pages of the night, drawn from what the stages wrote."""
        return self.data / "reports"

    @property
    def nights(self) -> Path:
        """What nights leave for people; git and DVC ignore it."""
        return (self.home or self.root) / "nights"

    @property
    def data_docs(self) -> Path:
        """Great Expectations' HTML; it carries times, so it is no stage's output."""
        return self.root / "nights" / "data_docs"

    @property
    def checkpoints(self) -> Path:
        """What an interrupted training resumes from; candidates share none."""
        return self.root / "nights" / "checkpoints"

    @property
    def registered(self) -> Path:
        """What register last did; it names versions and runs, so it is no stage's output."""
        return self.nights / "register.json"

    @property
    def candidates(self) -> Path:
        """The candidates of the last night that had several: their settings, scores, and which one went on."""
        return self.nights / "candidates.json"

    def workspace_of(self, candidate: str) -> Paths:
        """The workspace of a candidate of this one's nights."""
        home = self.home or self.root
        return Paths(home / "nights" / "candidates" / candidate, home)

    @property
    def mlruns(self) -> Path:
        return (self.home or self.root) / "mlruns"

    def metrics(self, stage: str) -> Path:
        return self.data / "metrics" / f"{stage}.json"

    def plots(self, stage: str) -> Path:
        return self.data / "plots" / stage
