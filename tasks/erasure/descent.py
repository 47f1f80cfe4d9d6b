"""What learnt from rows that are to go: from the data that hold them to the models, along the recorded digests.

Data that still lie in DVC's cache are read: they hold the rows or they do not. What is made of them is followed by the
digests that MLflow's runs and the registry's versions carry. Where the data are gone, nobody can tell; what was made
of them may have learnt.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tasks import digests
from tasks.erasure.request import Request
from tasks.registry import retirement
from tasks.registry.versions import RETIRED
from tasks.stages import STAGES, VERSIONED

NOT, MAY, DID = 0, 1, 2
"""Whether something learnt from the rows, or holds them."""
READABLE = (
    *("data/raw", "data/validated/train", "data/validated/dev", "data/validated/test", "data/validated/feedback"),
    *("data/quarantine", "data/rankings"),
)
"""Outputs whose rows are people's own, with their ids: reading them says whether they hold a row."""
OUTPUT = "output."


class Making(NamedTuple):
    """A stage that ran once: the digests of what it read and of what it wrote, by path."""

    stage: str
    reads: Mapping[str, str]
    writes: Mapping[str, str]


class Learner(NamedTuple):
    """A registered version and what it has to do with the rows.

    Attributes:
        level: whether it learnt from them.
        tested: whether it was only measured on them.
        promoted: whether a night made it champion once.
        retired: whether it is retired already, by a command that was cut off.
    """

    model: str
    version: int
    level: int
    tested: bool
    promoted: bool
    aliases: tuple[str, ...]
    retired: bool

    @property
    def name(self) -> str:
        """As records and people have it."""
        return f"{self.model} version {self.version}"


@dataclass
class Descent:
    """What came of the rows.

    Attributes:
        levels: by digest, whether it holds the rows or learnt from them.
        data: the paths of data sets that hold them, with the digests of each.
        models: the paths of models that learnt from them, or may have, with the digests of each.
        pairs: the digests of pairs that were made of rankings which hold them.
        runs: the MLflow runs that read or wrote something of that.
        versions: the registered versions, those that have nothing to do with the rows too.
    """

    levels: dict[str, int]
    data: dict[str, list[str]] = field(default_factory=dict)
    models: dict[str, list[str]] = field(default_factory=dict)
    pairs: set[str] = field(default_factory=set)
    runs: list[str] = field(default_factory=list)
    versions: list[Learner] = field(default_factory=list)

    @property
    def learners(self) -> list[Learner]:
        """The versions that learnt from the rows, or may have."""
        return [version for version in self.versions if version.level]

    @property
    def any_sure(self) -> bool:
        """Whether anything holds the rows or surely learnt from them."""
        return DID in self.levels.values() or any(version.level == DID for version in self.versions)


def trace(
    client: Any,
    runs: Sequence[Any],
    request: Request,
    holding: Collection[str],
    known: Collection[str],
    recorded: Collection[str] = (),
) -> Descent:
    """Follows the rows through MLflow's runs and the registry.

    Args:
        client: None where nothing was tracked yet.
        runs: all of MLflow's runs, the earliest first.
        holding: the digests of files and folders that hold the rows.
        known: the digests of all that could be read, those among them.
        recorded: the versions whose retirement is on record, `nightjar-policy version 2`.
    """
    registered = [each for each in retirement.every(client) if not _is_done(each, recorded)] if client else []
    levels = dict.fromkeys(holding, DID)
    readable = {*known, digests.EMPTY}
    if request.kind == "annotator":
        for version in registered:
            _by_annotators(version.tags, request.id, levels, readable)
    makings = [_of_run(run) for run in runs] + [
        making for version in registered for making in _of_version(version.tags)
    ]
    while sum(_spread(making, levels, readable) for making in makings):
        pass
    descent = Descent(levels)
    for making in makings:
        if making.stage == "pairs" and levels.get(making.reads.get("data/rankings", "")) == DID:
            descent.pairs |= set(making.writes.values())
    for path, digest in sorted({pair for making in makings for pair in {**making.reads, **making.writes}.items()}):
        if path.startswith("data/models/") and levels.get(digest):
            descent.models.setdefault(path, []).append(digest)
        elif levels.get(digest) == DID and (digest in {*holding, *descent.pairs} or path in READABLE):
            descent.data.setdefault(path, []).append(digest)
    descent.runs = [
        run.info.run_id
        for run, making in zip(runs, makings, strict=False)
        if any(levels.get(digest) for digest in [*making.reads.values(), *making.writes.values()])
    ]
    descent.versions = [_learner(client, version, levels) for version in registered]
    return descent


def _is_done(version: Any, recorded: Collection[str]) -> bool:
    """Whether a version is retired already, on record; without a record the command was cut off in between."""
    return RETIRED in version.tags and f"{version.name} version {version.version}" in recorded


def _by_annotators(tags: Mapping[str, str], annotator: str, levels: dict[str, int], readable: set[str]) -> None:
    """A version names who made its rankings, so that this is known when the rankings themselves are gone."""
    if "annotators" not in tags:
        return
    rankings = tags.get("data.data/rankings")
    if rankings and rankings not in readable and annotator in json.loads(tags["annotators"]):
        levels[rankings] = DID
    readable |= {tags[f"data.{path}"] for path in READABLE if f"data.{path}" in tags}


def _of_run(run: Any) -> Making:
    reads = {each.dataset.name: each.dataset.digest for each in run.inputs.dataset_inputs}
    tags = run.data.tags
    writes = {name.removeprefix(OUTPUT): digest for name, digest in tags.items() if name.startswith(OUTPUT)}
    return Making(tags.get("stage", ""), reads, writes)


def _of_version(tags: Mapping[str, str]) -> Iterator[Making]:
    """Every stage of the night that made a version, as its tags have it."""
    for name in VERSIONED:
        reads, writes = (
            {path: tags[f"data.{path}"] for path in paths if f"data.{path}" in tags}
            for paths in (STAGES[name].reads, STAGES[name].writes)
        )
        yield Making(name, reads, writes)


def _spread(making: Making, levels: dict[str, int], readable: Collection[str]) -> bool:
    """Carries on what a stage read to what it wrote; returns whether that was new."""
    read, is_new = max((levels.get(digest, NOT) for digest in making.reads.values()), default=NOT), False
    for path, digest in making.writes.items():
        level = read
        if path in READABLE:
            # What was read of people's rows may have been dropped or set aside, and who read the data cannot be asked.
            level = NOT if digest in readable else MAY if read or path == "data/raw" else NOT
        if level > levels.get(digest, NOT):
            levels[digest], is_new = level, True
    return is_new


def _learner(client: Any, version: Any, levels: Mapping[str, int]) -> Learner:
    level = levels.get(version.tags.get("content", ""), NOT)
    is_policy = version.name.endswith("-policy")
    tested = is_policy and level == NOT and levels.get(version.tags.get("data.data/validated/test", ""), NOT) == DID
    aliases = client.get_model_version(version.name, version.version).aliases
    promoted = version.tags.get("promoted") == "yes"
    retired = RETIRED in version.tags
    return Learner(version.name, int(version.version), level, tested, promoted, tuple(sorted(aliases)), retired)
