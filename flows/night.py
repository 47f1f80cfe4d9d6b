"""The night as a Prefect flow: one task per stage, in the graph's order, each run only when it is due.

Prefect keeps its database where it always does (PREFECT_HOME, by default the user's ~/.prefect), so a
plain `prefect server start` shows the nights that ran with a server of their own (flows.up). With
PREFECT_API_URL set, they report to that server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.runtime import deployment, flow_run
from prefect.states import Completed

from flows import trials
from tasks import cron, deadline, environment, presets, progress, runner, stages
from tasks.deadline import DeadlineError
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.registry import champion
from tasks.reproducibility import experiments
from tasks.scheduling import diary, history, lock, missed
from tasks.scheduling.diary import Entry
from tasks.scheduling.history import Night
from tasks.terminal import visible
from tasks.tracking import tracker
from tasks.trials import standings
from tasks.trials.candidates import read_checked
from tasks.user_errors import USER_ERRORS, message_of

HUB_RETRIES_S = [10.0, 60.0]
"""How long to wait before asking a Hub again; no other stage fails in a way that waiting helps."""


@flow(name="night", persist_result=False)
def night(root: str) -> State[dict[str, str]]:
    """Brings every stage up to date, in order, if one of them has something to do.

    Args:
        root: the workspace.

    Returns:
        How each stage came up to date: ran, cached or restored. The state is named after the night's outcome.
    """
    environment.prepare()
    paths, now = Paths(Path(root).resolve()), datetime.now().astimezone()
    try:
        params = read_checked(paths.root / "params.yaml")
    except USER_ERRORS as error:
        history.append(paths, Night.failed(cron.name(now, "UTC"), now, message_of(error) or str(error)))
        raise
    planned = flow_run.scheduled_start_time if deployment.id else None
    try:
        with (
            lock.held(paths),
            diary.opened(paths, params, planned or now, _say) as entry,
            _explained(entry),
            progress.hearing(_log),
        ):
            _work(entry, paths, params, planned)
    except lock.AnotherNightError as busy:
        if planned is None:
            raise
        with diary.opened(paths, params, planned, _say) as entry:
            entry.end("missed", str(busy))
    return Completed(name=entry.outcome.capitalize(), message=entry.why, data=entry.stages)


def _work(entry: Entry, paths: Paths, params: Params, planned: datetime | None) -> None:
    if planned and (earlier := missed.already_run(paths, planned)):
        entry.end("nothing new", f"nothing new: {earlier.name} has run: {earlier.outcome}")
        return
    if planned and (why := missed.too_late(paths, params.night, planned, entry.started)):
        entry.end("missed", why)
        return
    presets.check_needed(paths, params)
    due = runner.pending(paths, params)
    if not due:
        entry.stages = dict.fromkeys(stages.STAGES, "cached")
        entry.end("nothing new", diary.nothing_new(paths))
        return
    preset = presets.which_preset(paths.root, paths.root / "params.yaml")
    with (
        deadline.within(params.night.deadline_minutes),
        tracker.night(paths, params, "flow", preset, entry.name) as entry.run_id,
    ):
        if due != ["register"]:
            champion.check_out(paths, params)
        run_stages(entry, paths, params)
        entry.decided(paths)
        best = standings.chosen(paths, params)
        with entry.tolerating("no experiment is kept"):
            kept = experiments.record(*best, entry.run_id)
            entry.experiment = kept and kept.name
        with entry.tolerating("Prefect's UI has no summary"):
            publish_summary(best[0])


def run_stages(entry: Entry, paths: Paths, params: Params) -> None:
    """Brings the stages up to date, a task each; where there are several candidates, the best is registered."""
    states: dict[str, State[str]] = {}

    def run(names: Iterable[str]) -> None:
        for name in names:
            entry.stage = name
            deadline.check(f"before {name}")
            stage = stage_task(name, params, _update_stage)
            waits = [states[earlier] for earlier in upstream(name)]
            states[name] = stage(name, paths, params, return_state=True, wait_for=waits)
            entry.stages[name] = states[name].result()  # raises the stage's own error

    with trials.first(paths, params):
        run(stages.VERSIONED)
    entry.stage = "candidates"
    assert entry.run_id is not None
    trials.compete(paths, params, entry.run_id, _say)
    run(name for name in stages.STAGES if name not in stages.VERSIONED)


@contextmanager
def _explained(entry: Entry) -> Iterator[None]:
    """Puts a failure beside the night in the Prefect UI: where, why, and what to do."""
    try:
        yield
    except DeadlineError:
        raise
    except Exception as error:
        where = f"in `{entry.stage}`" if entry.stage else "before its stages"
        text = (
            f"# {entry.name} failed {where}\n\n    {type(error).__name__}: {message_of(error) or error}\n\n"
            "The champion is as it was, and stages that have ended are kept. Fix what the message names, then wait for "
            "the next night or run `nightjar run`; this run's log has the traceback.\n"
        )
        create_markdown_artifact(text, key="failure", description="Why the night failed")
        raise


def stage_task(name: str, params: Params, action: Callable[..., str]) -> Any:
    """A stage's task: DVC is the one cache, and only requests to a Hub are retried."""
    sources = (params.ingest.source, params.ingest.general or "")
    from_hub = name == "ingest" and any(source.startswith("hub:") for source in sources)
    return task(
        name=name,
        description=f"python -m tasks {name}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(HUB_RETRIES_S) if from_hub else 0,
        retry_delay_seconds=HUB_RETRIES_S if from_hub else None,
    )(action)


def upstream(name: str) -> list[str]:
    """The stages whose outputs this one reads: the edges of the graph, as the Prefect UI draws them."""
    reads = stages.STAGES[name].reads

    def feeds(earlier: str) -> bool:
        return any(f"{read}/".startswith(f"{written}/") for read in reads for written in stages.made_by(earlier))

    return [earlier for earlier in stages.STAGES if feeds(earlier)]


def _update_stage(name: str, paths: Paths, params: Params) -> str:
    started = time.monotonic()
    outcome = runner.update_stage(name, paths, params)
    _say(f"{name:<9} {outcome.status:<9} {time.monotonic() - started:6.1f} s")
    return outcome.status


def _say(line: str) -> None:
    print(visible(line), flush=True)
    _log(logging.INFO, visible(line))


def _log(level: int, line: str) -> None:
    """A line in Prefect's log of the task that runs, or of the flow between tasks."""
    get_run_logger().log(level, line)


def publish_summary(paths: Paths) -> None:
    """Puts the summary and the way to the details beside the night in the Prefect UI."""
    from tasks.reports import canaries, summary

    create_markdown_artifact(summary.markdown(paths), key="summary", description="SFT beside policy")
    if shown := canaries.read(paths):
        text = canaries.markdown(shown)
        create_markdown_artifact(text, key="canaries", description="Fixed prompts: the policy beside the champion")
    links = "\n".join(f"    {line}" for line in summary.commands(paths).splitlines())
    create_markdown_artifact(f"Open the details with\n\n{links}\n", key="links", description="Where to look")
