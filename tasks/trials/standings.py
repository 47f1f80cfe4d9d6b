"""What became of candidates: the figures of each, and which of a night's goes on (nights/candidates.json)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from math import inf
from statistics import fmean
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from tasks import digests
from tasks.files import as_record, read_rows, write_json
from tasks.params.night import UNCHANGED
from tasks.params.register import RegisterParams
from tasks.params.whole import Params, read_params
from tasks.paths import Paths
from tasks.registry import gates
from tasks.trials import workspaces
from tasks.trials.candidates import Candidate, read_candidates

WIN_RATE_LOW = "win_rate_low"


class Standing(BaseModel):
    """A candidate that was trained; what only a night knows stays empty aside from one.

    Attributes:
        folder: its workspace, from the one that it belongs to.
        error: why it was not trained to the end; the rest is empty then.
        score: what it is chosen by: the mean held-out score of its policy on the dev prompts, each prompt's samples
            averaged first; with night.rouge_weight that of `rlhf.evaluation.trade_off`.
        standard_error: of that mean, over prompts.
        dev_win_rate: with night.rouge_weight, the share of comparisons with SFT that it won, by the held-out scorer.
        dev_rouge: with night.rouge_weight, that of its likeliest answers.
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
    dev_win_rate: float | None = None
    dev_rouge: float | None = None
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
        rouge_weight: night.rouge_weight of that night.
        sft_rouge: with it, that of the first candidate's SFT, whom all are compared with.
        candidates: all of them, params.yaml as it is first.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    winner: str
    referee: str
    prompts: int
    rouge_weight: float | None = None
    sft_rouge: float | None = None
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


def by_variant(standings: Sequence[Standing]) -> dict[str, list[Standing]]:
    """The candidates of each variant, which differ by seed alone."""
    groups: dict[str, list[Standing]] = {}
    for row in standings:
        groups.setdefault(row.variant, []).append(row)
    return groups


def rank(rows: Sequence[Standing]) -> tuple[int, float]:
    """How settings stand by all of their seeds, to be compared: fewer lost seeds first, then the mean score."""
    scores = [row.score for row in rows if row.score is not None]
    return len(scores) - len(rows), fmean(scores) if scores else -inf


def read_monitor(paths: Paths) -> dict[str, Any] | None:
    """What the hacking monitor wrote beside the policy; None without a monitor."""
    path = paths.models / "policy" / "monitor.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def read_judge(paths: Paths) -> dict[str, float] | None:
    """What reward measured, where its judge decided the win rate and people ranked; else None."""
    scores = json.loads((paths.evaluation / "scores.json").read_text(encoding="utf-8"))
    by_people = any(row["annotator"] != "simulated" for _, row in read_rows(paths.rankings))
    if scores["sampling"]["referee"] != "judge" or not by_people:
        return None
    path = paths.metrics("reward")
    figures: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return figures


def passes_gates(workspace: Paths, params: RegisterParams, figures: Mapping[str, float]) -> bool:
    """Whether a night would promote this policy, were there no champion to beat and no other seed to look at."""
    findings = gates.judge_evaluation(figures, params) + gates.judge_monitor(read_monitor(workspace), params)
    findings += gates.judge_judge(read_judge(workspace), params)
    return gates.is_promoted(findings)


def key(paths: Paths, candidates: Sequence[Candidate]) -> str:
    """The digest of what decides a selection: everyone's params, and the code and data that dvc.lock speaks of."""
    parts = [candidate.params.model_dump_json(exclude={"night"}) for candidate in candidates]
    parts.append(digests.digest(paths.root / "dvc.lock"))
    if (weight := candidates[0].params.night.rouge_weight) is not None:
        parts.append(str(weight))
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
    file = (paths.home or paths.root) / "params.yaml"
    seeds = read_params(file).night.seeds if file.is_file() else []
    competed = own(paths)
    rows = by_variant(competed[0].candidates)[competed[1].variant] if competed else []
    return Seeds(1 + len(seeds), tuple(row.figures.get(WIN_RATE_LOW, 0.0) for row in rows))


def own(paths: Paths) -> tuple[Selection, Standing] | None:
    """The last selection, and how the very policy in this workspace stood in it; None where it did not compete."""
    home, selection, content = paths.home or paths.root, read(paths), digests.digest(paths.models / "policy")
    rows = selection.candidates if selection else []
    row = next((row for row in rows if home / row.folder == paths.root and row.policy == content), None)
    return (selection, row) if selection and row else None
