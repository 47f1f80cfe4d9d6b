"""What became of candidates: the figures of each, and which of a night's goes on (nights/candidates.json)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from tasks import digests
from tasks.files import as_record, write_json
from tasks.params.night import UNCHANGED
from tasks.params.whole import Params, read_params
from tasks.paths import Paths
from tasks.trials import workspaces
from tasks.trials.candidates import Candidate, read_candidates

WIN_RATE_LOW = "win_rate_low"


class Standing(BaseModel):
    """A candidate that was trained; what only a night knows stays empty aside from one.

    Attributes:
        folder: its workspace, from the one that it belongs to.
        error: why it was not trained to the end; the rest is empty then.
        score: the mean held-out score of its policy on the dev prompts, each prompt's samples averaged first.
        standard_error: of that mean, over prompts.
        figures: what its evaluation measured, on test prompts; aside from a night, its trainings' figures too.
        policy: the digest of data/models/policy.
        run_id: its MLflow run.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    variant: str
    seed: int | None
    folder: str
    error: str | None = None
    score: float | None = None
    standard_error: float | None = None
    figures: dict[str, float] = {}
    policy: str | None = None
    run_id: str | None = None


class Selection(BaseModel):
    """The last night that had several candidates.

    Attributes:
        key: the digest of what decided it.
        winner: the name of the candidate that goes on.
        referee: who scored.
        prompts: how many dev prompts it scored on.
        candidates: all of them, params.yaml as it is first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    winner: str
    referee: str
    prompts: int
    candidates: list[Standing]


class Seeds(NamedTuple):
    """How a policy's settings did with each of their seeds: the lower bounds of the win rates over SFT.

    Attributes:
        wanted: how many seeds params.yaml asks for.
        lows: those of the candidates that differ from the policy by seed alone, its own among them; 0 for one that
            failed.
    """

    wanted: int
    lows: tuple[float, ...]


def standing(paths: Paths, workspace: Paths, candidate: Candidate, stages: Sequence[str]) -> Standing:
    """A candidate with the figures that these of its stages measured; a later stage's hold where two have a name."""
    figures: dict[str, float] = {}
    for stage in stages:
        figures |= json.loads(workspace.metrics(stage).read_text(encoding="utf-8"))
    folder = workspace.root.relative_to(paths.root).as_posix()
    return Standing(name=candidate.name, variant=candidate.variant, seed=candidate.seed, folder=folder, figures=figures)


def key(paths: Paths, candidates: Sequence[Candidate]) -> str:
    """The digest of what decides a selection: everyone's params, and the code and data that dvc.lock speaks of."""
    parts = [candidate.params.model_dump_json(exclude={"night"}) for candidate in candidates]
    parts.append(digests.digest(paths.root / "dvc.lock"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read(paths: Paths) -> Selection | None:
    """The last selection, or None; raises ValueError when its file is not one."""
    if not paths.candidates.is_file():
        return None
    row = json.loads(paths.candidates.read_text(encoding="utf-8"))
    return as_record(row, Selection, str(paths.candidates))


def write(paths: Paths, selection: Selection) -> None:
    """Keeps a selection."""
    write_json(paths.candidates, selection.model_dump(mode="json"))


def settled(paths: Paths, params: Params) -> Selection | None:
    """The selection that still holds: of these params, code and data, with the winner's models there; else None."""
    selection = read(paths) if has_several(params) else None
    if selection is None or not (paths.root / "dvc.lock").is_file():
        return None
    winner = workspaces.of_night(paths, selection.winner)
    holds = selection.key == key(paths, read_candidates(paths.root / "params.yaml"))
    return selection if holds and (winner.models / "policy").is_dir() else None


def has_several(params: Params) -> bool:
    """Whether a night of these params has more than one candidate."""
    return bool(params.night.seeds or params.night.variants)


def chosen(paths: Paths, params: Params) -> tuple[Paths, Params]:
    """The workspace and the params that are registered: those of the winner, where there were several candidates."""
    selection = settled(paths, params)
    if selection is None or selection.winner == UNCHANGED:
        return paths, params
    workspace = workspaces.of_night(paths, selection.winner)
    return workspace, read_params(workspace.root / "params.yaml")


def seeds_of(paths: Paths) -> Seeds:
    """How the settings of the policy in this workspace did with each seed that its home's params.yaml asks for."""
    home = paths.home or paths.root
    seeds = read_params(home / "params.yaml").night.seeds if (home / "params.yaml").is_file() else []
    selection, content = read(paths), digests.digest(paths.models / "policy")
    standings = selection.candidates if selection else []
    own = next((row for row in standings if home / row.folder == paths.root and row.policy == content), None)
    rows = [row for row in standings if own is not None and row.variant == own.variant]
    return Seeds(1 + len(seeds), tuple(row.figures.get(WIN_RATE_LOW, 0.0) for row in rows))
