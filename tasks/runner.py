"""Runs stages for both doors: tracked in MLflow, versioned by DVC, and only when something changed.

`dvc repro` comes in through `python -m tasks <stage>` (run_tracked); the flow and `nightjar stage` come
in through `update_stage`, which checks with DVC first.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from tasks import deadline, graph, preflight, stages
from tasks.files import write_json
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.presets import needed
from tasks.registry import champion, existing
from tasks.tracking import tracker
from tasks.trials import standings, workspaces
from tasks.trials.candidates import Candidate
from tasks.trials.standings import Standing
from tasks.versioning import dvc_repo, provenance
from tasks.versioning.dvc_repo import Outcome

Say = Callable[[str], None]
"""Hears how training goes, a line at a time."""
CANDIDATES = "candidates"
"""What `pending` calls the seeds and variants that a night has yet to train."""


def run_stage(stage: str, paths: Paths, params: Params) -> dict[str, float]:
    """Runs one stage on its own files and its own sections of the params, and writes its metrics.

    Raises:
        ValueError: there is no such stage, or the stage rejects its inputs.
    """
    if stages.check(stage).loads_model and params.model.threads is not None:
        import torch

        torch.set_num_threads(params.model.threads)
    settings = [params.section(name) for name in stages.sections(stage)]
    # register changes the world outside, so it is given the whole workspace.
    given = stages.files(stage, paths) if stages.STAGES[stage].versioned else paths
    metrics: dict[str, float] = import_module(f"tasks.{stage}").run(given, *settings)
    write_json(paths.metrics(stage), metrics)
    return metrics


def run_tracked(stage: str, paths: Paths, params: Params, door: str) -> dict[str, float]:
    """Runs one stage inside its MLflow run, whatever its state, and returns its metrics.

    Raises:
        FileNotFoundError: an input is missing; the message names the stage that writes it.
        ValueError: there is no such stage, it rejects its inputs, or a later one of the open night would reject them.
    """
    check_inputs(stage, paths)
    in_night = tracker.NIGHT_VARIABLE in os.environ
    if in_night and stage in preflight.BEFORE:
        preflight.check(paths, params)
    inputs = provenance.digests(paths, _inputs(stage, paths, params))
    with tracker.stage(stage, paths, params, tuple(stages.sections(stage)), inputs, door) as run:
        metrics = run_stage(stage, paths, params)
        run.log(metrics)
        outputs = provenance.digests(paths, stages.STAGES[stage].writes)
        tracker.record_outputs(paths, run.run_id, outputs)
    if not in_night and stage in preflight.AFTER:  # whoever runs stages by hand may want no whole night
        preflight.tell(paths, params)
    if not stages.STAGES[stage].versioned:
        write_json(_memory(stage, paths), _fingerprint(stage, paths, params))
    return metrics


def update_stage(stage: str, paths: Paths, params: Params, tracked: bool = True) -> Outcome:
    """Runs a stage if it has to, in a run of MLflow's or without, and says how it came up to date.

    Raises as run_tracked does.
    """
    if not stages.STAGES[stage].versioned:
        paths, params = standings.chosen(paths, params)
    check_inputs(stage, paths)

    def run() -> None:
        if tracked:
            run_tracked(stage, paths, params, "flow")
        else:
            if stage in preflight.BEFORE:
                preflight.check(paths, params)
            run_stage(stage, paths, params)

    if stages.STAGES[stage].versioned:
        stages.check_sections(params)
        outcome = dvc_repo.reproduce(stage, paths.root, run)
        if tracked and outcome.status != "ran" and os.environ.get(tracker.NIGHT_VARIABLE):
            made = {path: outcome.outputs[path] for path in stages.STAGES[stage].writes if path in outcome.outputs}
            tracker.record_skipped(paths, stage, outcome.status, made)
        return outcome
    if _is_remembered(stage, paths, params):
        return Outcome("cached", {}, {})
    run()
    return Outcome("ran", {}, {})


def train(paths: Paths, candidate: Candidate, say: Say = print) -> None:
    """Trains a candidate of the open night, below a run of its own.

    Raises:
        ValueError: a stage rejects its settings.
        DeadlineError: the night's time is up.
    """
    workspace = workspaces.of_night(paths, candidate.name)
    workspaces.prepare(paths, workspace, candidate)
    champion.check_out(workspace, candidate.params)
    with tracker.candidate(workspace, candidate.params, candidate.name):
        _train(workspace, candidate, True, say)


def train_aside(paths: Paths, candidate: Candidate, say: Say = print) -> Standing:
    """Trains a candidate that belongs to no night, and returns its figures; changes nothing but its own workspace.

    No run of MLflow's is written and no registry asked: where sft starts from the champion, it is the one that lies in
    data/champion. The wall time is told where every stage ran.

    Raises:
        ValueError: a stage rejects its settings.
    """
    workspace, started = workspaces.aside(paths, candidate.name), time.monotonic()
    workspaces.prepare(paths, workspace, candidate)
    statuses = _train(workspace, candidate, False, say)
    standing = standings.standing(paths, workspace, candidate, ["reward", "policy", "evaluate"])
    figures = standing.figures
    if standings.WIN_RATE_LOW in figures:
        passed = standings.passes_gates(workspace, candidate.params.register_, figures)
        figures = figures | {"gates_passed": float(passed)}
    wall = {"wall_s": time.monotonic() - started} if statuses == {"ran"} else {}
    return standing.model_copy(update={"figures": figures | wall})


def _train(workspace: Paths, candidate: Candidate, tracked: bool, say: Say) -> set[str]:
    """Brings every stage up to date in a candidate's workspace, and returns how they came up to date."""
    statuses: set[str] = set()
    for stage in stages.VERSIONED:
        deadline.check(f"before {stage} of {candidate.name}")
        started = time.monotonic()
        outcome = update_stage(stage, workspace, candidate.params, tracked)
        say(f"{stage:<9} {outcome.status:<9} {time.monotonic() - started:6.1f} s  {candidate.name}")
        statuses.add(outcome.status)
    return statuses


def pending(paths: Paths, params: Params) -> list[str]:
    """The stages that have something to do, in order, CANDIDATES among them; empty when everything is up to date.

    Raises:
        ValueError: params.yaml lacks a stage's section.
    """
    stages.check_sections(params)
    stale = dvc_repo.stale(paths.root)
    if standings.has_several(params) and standings.settled(paths, params) is None:
        stale.append(CANDIDATES)
    best = standings.chosen(paths, params)
    outside = [name for name, stage in stages.STAGES.items() if not stage.versioned]
    return stale + [name for name in outside if stale or not _is_remembered(name, *best)]


def decide_again(paths: Paths) -> None:
    """Has the next night register and judge its policy again, though nothing that it was made of has changed."""
    for name, stage in stages.STAGES.items():
        if not stage.versioned:
            _memory(name, paths).unlink(missing_ok=True)


def check_inputs(stage: str, paths: Paths) -> None:
    """Raises FileNotFoundError for the first input that is not there, naming what makes it."""
    for name in stages.check(stage).reads:
        if not (paths.root / name).exists():
            raise FileNotFoundError(f"{paths.root / name}: not there, and {stage} reads it; {_remedy(name)}")


def _remedy(name: str) -> str:
    for writer in stages.STAGES:
        if any(f"{name}/".startswith(f"{path}/") for path in stages.made_by(writer)):
            return f"{writer} writes it: nightjar run, or nightjar stage {writer}"
    return f"make the folder: mkdir -p {name}"


def _inputs(stage: str, paths: Paths, params: Params) -> list[str]:
    """What a stage reads, with the files that the params name instead of their folders."""
    names: list[str] = []
    for name in stages.STAGES[stage].reads:
        if paths.root / name in (paths.source, paths.feedback):
            files = [path.relative_to(paths.root).as_posix() for path, _ in needed(paths, params)]
            names += [path for path in files if path.startswith(f"{name}/")]
        else:
            names.append(name)
    return names


def _is_remembered(stage: str, paths: Paths, params: Params) -> bool:
    """Whether a stage outside DVC ran last on just this, and MLflow's database is still there."""
    memory = _memory(stage, paths)
    if not memory.is_file() or not (paths.mlruns / "mlflow.db").is_file():
        return False
    if stage == "register" and existing.must_register(paths, params.register_.name):
        return False  # somebody deleted what it made, or who was champion
    return bool(json.loads(memory.read_text(encoding="utf-8")) == _fingerprint(stage, paths, params))


def _memory(stage: str, paths: Paths) -> Path:
    return paths.nights / f"{stage}.done.json"


def _fingerprint(stage: str, paths: Paths, params: Params) -> dict[str, str]:
    """Digests of all that a stage outside DVC depends on, by name."""
    settings = params.section(stage).model_dump_json()
    return {
        **provenance.digests(paths, (*stages.STAGES[stage].reads, *graph.code_of(paths.root, stage))),
        "params": hashlib.md5(settings.encode(), usedforsecurity=False).hexdigest(),
    }
