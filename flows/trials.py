"""The night's further candidates as Prefect tasks, one each, and the choice among them.

One at a time they run in this process, like the stages. Several at once have a process each, since DVC works in the
process's one current folder, and since the allocator is tuned at a process's start.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.task_runners import ThreadPoolTaskRunner

from tasks import deadline, environment, runner
from tasks.__main__ import LATE, REFUSED
from tasks.deadline import DeadlineError
from tasks.params.night import UNCHANGED
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.reproducibility import experiments
from tasks.runner import Say
from tasks.tracking import tracker
from tasks.trials import selection, standings, table, workspaces
from tasks.trials.candidates import Candidate, read_candidates
from tasks.trials.standings import Selection
from tasks.versioning.dvc_repo import BusyError


def first(paths: Paths, params: Params) -> AbstractContextManager[Any]:
    """Around the stages of params.yaml as it is: where there are other candidates, they get a run of their own too."""
    return tracker.candidate(paths, params, UNCHANGED) if standings.has_several(params) else nullcontext()


def compete(paths: Paths, params: Params, night_id: str, say: Say) -> None:
    """Trains the other candidates and chooses the best by its held-out score, unless all that is done already.

    Args:
        paths: the workspace, in which params.yaml as it is has been trained.
        night_id: the night's MLflow run.
        say: hears how it goes.
    """
    if not standings.has_several(params):
        return
    decided = standings.settled(paths, params) or _select(paths, params, night_id, say)
    selection.record(paths, decided, night_id)


def _select(paths: Paths, params: Params, night_id: str, say: Say) -> Selection:
    candidates = read_candidates(paths.root / "params.yaml")
    workspaces.remove_others(paths, [row.name for row in candidates])
    errors = train(paths, candidates[1:], params.night.parallel, say)
    decided = selection.decide(paths, candidates, errors, night_id)
    rows = table.of_night(decided)
    winner = next(row for row in decided.candidates if row.name == decided.winner)
    chosen = table.choice(decided, winner)
    scored = chosen or f"held-out score: {decided.referee}, {decided.prompts} dev prompts"
    create_table_artifact(rows, key="candidates", description=f"Candidates of the night; {scored}")
    for line in rows:
        say(f"{line['candidate']:<24} {line['held-out score']:<18} {line['']}")
    if chosen:
        say(chosen)
    for row in candidates:
        if row.name != decided.winner and row.name not in errors:
            experiments.record(workspaces.of_night(paths, row.name), row.params, night_id, row.name)
    return decided


def train(paths: Paths, others: Sequence[Candidate], parallel: int, say: Say) -> dict[str, str]:
    """Trains candidates, as many at once as `parallel` says; returns by name why one was not trained to the end."""
    if parallel == 1:
        outcomes = {row.name: _task(row, _train_here)(paths, row, say) for row in others}
    else:
        outcomes = _train_several(paths, others, parallel, say)
    errors = {name: error for name, error in outcomes.items() if error}
    for name, error in errors.items():
        say(f"{name}: out of the selection: {error}")
    return errors


def _train_several(paths: Paths, others: Sequence[Candidate], parallel: int, say: Say) -> dict[str, str | None]:
    children = Children()
    futures: dict[str, PrefectFuture[str | None]] = {}
    pool: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=parallel)
    with pool:
        try:
            for row in others:
                given = {"paths": paths, "candidate": row, "say": say, "children": children}
                # The variants of a seed take over what the first one with that seed has trained.
                before = [futures[name] for name in [f"seed-{row.seed}"] if name in futures]
                futures[row.name] = pool.submit(_task(row, train_beside), given, wait_for=before)
            return {name: future.result() for name, future in futures.items()}
        finally:
            children.end()


@dataclass
class Children:
    """The processes of a night's candidates: none outlives it, and none starts after its end."""

    running: list[subprocess.Popen[str]] = field(default_factory=list)
    ended: bool = False

    def add(self, child: subprocess.Popen[str]) -> None:
        self.running.append(child)
        if self.ended:
            child.terminate()

    def end(self) -> None:
        self.ended = True
        for child in self.running:
            child.terminate()


def _task(candidate: Candidate, action: Callable[..., str | None]) -> Any:
    return task(name=candidate.name, cache_policy=NO_CACHE, persist_result=False)(action)


def _train_here(paths: Paths, candidate: Candidate, say: Say) -> str | None:
    try:
        runner.train(paths, candidate, say)
    except BusyError:
        raise
    except ValueError as error:
        return str(error)
    return None


def train_beside(paths: Paths, candidate: Candidate, say: Say, children: Children) -> str | None:
    deadline.check(f"before {candidate.name}")
    command = [sys.executable, "-m", "tasks", "--candidate", str(paths.root), candidate.name]
    # Without the sign that this process has the tuned allocator, the other one sees to its own.
    untuned = {name: value for name, value in os.environ.items() if (name, value) != (environment.TUNED, "tuned")}
    code, pipe = Path(runner.__file__).parents[1], subprocess.PIPE
    with subprocess.Popen(command, cwd=code, env=untuned, stdout=pipe, stderr=pipe, text=True) as child:
        children.add(child)
        output, errors = child.communicate()
    for line in output.splitlines():
        say(line)
    last = errors.strip().splitlines()[-1:] or [f"its process ended with {child.returncode}"]
    if child.returncode == LATE:
        raise DeadlineError(last[0])
    if child.returncode not in (0, REFUSED):
        raise RuntimeError(f"{candidate.name}: {last[0]}")
    return last[0] if child.returncode else None
