"""What forgetting would do, before it does it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tasks.erasure.descent import Descent, Learner
from tasks.erasure.request import Request
from tasks.erasure.sources import SourceFile, SourceRow


@dataclass(frozen=True)
class Plan:
    """What is to go, what is to be retired, and what a person has to see to.

    Attributes:
        files: the sources that hold rows which are to go, with these rows.
        outputs: folders of data/ that stages wrote, which hold the rows or learnt from them.
        scratch: folders of nights/ whose data are copies, made anew when they are needed.
        cached: DVC's cache files that hold the rows, by MD5.
        artifacts: MLflow's files that hold them, by their paths from the root.
        canaries: whether the last night's canaries, in nights/register.json, show them.
        experiments: DVC experiments that name data which held them.
        champion: the policy version that is champion and learnt from them, of the name that params give.
        back: a version that did not, to go back to.
        notes: what a person has to see to.
    """

    request: Request
    files: list[tuple[SourceFile, list[SourceRow]]]
    outputs: list[Path]
    scratch: list[Path]
    cached: dict[str, Path]
    artifacts: list[Path]
    canaries: bool
    experiments: list[str]
    descent: Descent
    champion: int | None
    back: int | None
    notes: list[str]

    @property
    def rows(self) -> Counter[str]:
        """How many rows go, by folder."""
        counts: Counter[str] = Counter()
        for file, rows in self.files:
            counts["/".join(file.shown.split("/")[:2])] += len(rows)
        return counts

    def versions(self, level: int) -> list[Learner]:
        """The versions that learnt from the rows, or that may have."""
        return [version for version in self.descent.learners if version.level == level]
