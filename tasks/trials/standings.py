"""The candidates of a night: what each works in, and what became of all of them (nights/candidates.json).

params.yaml as it is is the first candidate, and works in the workspace itself: `dvc repro` there goes on agreeing with
it, whichever goes on. Every other one has a workspace below nights/candidates with the same code and data and its own
params.yaml; DVC's cache is shared, so that what candidates have in common is made once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from tasks import digests, graph
from tasks.files import as_record, write_json, write_text
from tasks.params.night import UNCHANGED
from tasks.params.whole import Params, read_params
from tasks.paths import Paths
from tasks.stages import STAGES
from tasks.trials.candidates import Candidate, read_candidates
from tasks.versioning import dvc_repo, git

WIN_RATE_LOW = "win_rate_low"
KEPT = ("data", "nights", ".dvc", "dvc.lock")
"""What a candidate's workspace keeps from one night to the next; the rest is copied anew."""


class Standing(BaseModel):
    """A candidate after its night.

    Attributes:
        folder: its workspace, from the one that it belongs to.
        error: why it was not trained to the end; the rest is empty then.
        score: the mean held-out score of its policy on the dev prompts, each prompt's samples averaged first.
        standard_error: of that mean, over prompts.
        figures: what its evaluation measured, on test prompts.
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


class Contest(BaseModel):
    """The last night that had several candidates.

    Attributes:
        key: the digest of what decided it.
        winner: the name of the candidate that went on.
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


def place_of(paths: Paths, name: str) -> Paths:
    """The workspace of the candidate of this name."""
    return paths if name == UNCHANGED else paths.workspace_of(name)


def prepare(paths: Paths, candidate: Candidate) -> Paths:
    """Makes a candidate's workspace, or brings the one it had up to date: code, sources, its own params.yaml.

    What it trained before stays, so that a night that was cut off goes on from there.
    """
    place = place_of(paths, candidate.name)
    place.root.mkdir(parents=True, exist_ok=True)
    for old in place.root.iterdir():
        if old.name not in KEPT:
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    for name in _files(paths.root):
        (place.root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(paths.root / name, place.root / name)
    for theirs, ours in zip((paths.source, paths.feedback), (place.source, place.feedback), strict=True):
        shutil.rmtree(ours, ignore_errors=True)
        shutil.copytree(theirs, ours, copy_function=_link)
    write_text(place.root / "params.yaml", candidate.text)
    dvc_repo.share_cache(paths.root, place.root)
    return place


def tidy(paths: Paths, candidates: list[Candidate]) -> None:
    """Removes the workspaces of candidates that are none any more."""
    names = {candidate.name for candidate in candidates}
    folder = paths.workspace_of(UNCHANGED).root.parent
    for old in folder.iterdir() if folder.is_dir() else ():
        if old.name not in names:
            shutil.rmtree(old)


def _files(root: Path) -> Iterator[str]:
    """What a workspace is made of beside its data: in git all that it does not ignore, else what the stages are."""
    if git.is_checkout(root):
        listed = git.run(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
        names = {name for name in listed if name and not name.startswith("data/")} | {"data/.gitignore"}
    else:
        names = {file for stage in STAGES for file in graph.code_of(root, stage)}
        names |= {"dvc.yaml", ".dvcignore", ".dvc/config"}
    names |= {"data/champion/README.md"}
    return (name for name in sorted(names - {"dvc.lock"}) if (root / name).is_file())


def _link(source: str, target: str) -> None:
    """A second name for a file, which nobody writes to; a copy where the file system has no such thing."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def key(paths: Paths, candidates: list[Candidate]) -> str:
    """The digest of what decides a contest: everyone's params, and the code and data that dvc.lock speaks of."""
    parts = [candidate.params.model_dump_json(exclude={"night"}) for candidate in candidates]
    parts.append(digests.digest(paths.root / "dvc.lock"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def read(paths: Paths) -> Contest | None:
    """The last contest, or None; raises ValueError when its file is not one."""
    if not paths.candidates.is_file():
        return None
    row = json.loads(paths.candidates.read_text(encoding="utf-8"))
    return as_record(row, Contest, str(paths.candidates))


def write(paths: Paths, contest: Contest) -> None:
    """Keeps a contest."""
    write_json(paths.candidates, contest.model_dump(mode="json"))


def settled(paths: Paths, params: Params) -> Contest | None:
    """The contest that still holds: of these params, code and data, with the winner's models there; else None."""
    contest = read(paths) if has_several(params) else None
    if contest is None or not (paths.root / "dvc.lock").is_file():
        return None
    winner = place_of(paths, contest.winner)
    holds = contest.key == key(paths, read_candidates(paths.root / "params.yaml"))
    return contest if holds and (winner.models / "policy").is_dir() else None


def has_several(params: Params) -> bool:
    """Whether a night of these params has more than one candidate."""
    return bool(params.night.seeds or params.night.variants)


def chosen(paths: Paths, params: Params) -> tuple[Paths, Params]:
    """The workspace and the params that are registered: those of the winner, where there was a contest."""
    contest = settled(paths, params)
    if contest is None or contest.winner == UNCHANGED:
        return paths, params
    place = place_of(paths, contest.winner)
    return place, read_params(place.root / "params.yaml")


def seeds_of(paths: Paths) -> Seeds:
    """How the settings of the policy in this workspace did with each seed that its home's params.yaml asks for."""
    home = paths.home or paths.root
    seeds = read_params(home / "params.yaml").night.seeds if (home / "params.yaml").is_file() else []
    contest, content = read(paths), digests.digest(paths.models / "policy")
    standings = contest.candidates if contest else []
    own = next((row for row in standings if home / row.folder == paths.root and row.policy == content), None)
    rows = [row for row in standings if own is not None and row.variant == own.variant]
    return Seeds(1 + len(seeds), tuple(row.figures.get(WIN_RATE_LOW, 0.0) for row in rows))
