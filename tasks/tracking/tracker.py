"""What happened, written to MLflow: a run for the night, and a run per stage below it.

A stage run holds the stage's params, the figures of every step and the final ones, what the machine did meanwhile,
the data sets it read, sample tables, plots and every row of the evaluation. It carries the digests of its outputs as
tags, so that data which came back from the cache still leads to the run that made it. The night's run holds what
two nights are compared by: all params, every stage's final figures (`<stage>.<figure>`), its pictures and tables,
the data it learnt from, and how it ended; that too where a stage did not run, for its outputs are there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tasks.deadline import DeadlineError
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.progress import listening
from tasks.tracking import mlflow_store, samples
from tasks.tracking.metric_buffer import MetricBuffer, Point
from tasks.versioning import git, provenance

NIGHT_VARIABLE = "NIGHTJAR_NIGHT_RUN"
"""The open night's run id: in the environment, so that a stage in a subprocess nests below it too."""
NIGHT_PREFIX = "night-"
LEARNT_FROM = "data/validated/"
"""Where the data lie that a night learns from and is measured on."""


@dataclass(frozen=True)
class StageRun:
    """An open MLflow run of one stage; `night_id` is None when the stage runs by itself."""

    name: str
    run_id: str
    night_id: str | None
    client: Any

    def log(self, metrics: Mapping[str, float]) -> None:
        """The stage's final figures: in its own run, and in the night's under `<stage>.<figure>`."""
        points = [(key, float(value), 0) for key, value in metrics.items()]
        mlflow_store.log(self.client, self.run_id, metrics=points)
        if self.night_id:
            mlflow_store.log(self.client, self.night_id, metrics=_of_stage(self.name, metrics))


_stage: ContextVar[StageRun | None] = ContextVar("stage", default=None)


@contextmanager
def night(paths: Paths, params: Params, door: str, preset: str | None = None, name: str | None = None) -> Iterator[str]:
    """Opens the night's run, below which every `stage` nests, and yields its id; an error ends it as FAILED.

    Args:
        door: `flow` or `dvc`.
        preset: the preset that params.yaml equals, where it does.
        name: what the run is called; after the local time when not given.
    """
    tags = {**_origin(paths, door), "preset": preset or "own params"}
    with _above_stages(paths, params, name or time.strftime(f"{NIGHT_PREFIX}%Y-%m-%d-%H%M"), tags) as run_id:
        yield run_id


@contextmanager
def candidate(paths: Paths, params: Params, name: str) -> Iterator[str]:
    """Opens a candidate's run below the open night's, and yields its id; while open, every `stage` nests below it."""
    night = mlflow_store.open_client(paths).get_run(os.environ[NIGHT_VARIABLE])
    tags = {**_origin(paths, night.data.tags["door"]), "candidate": name, "mlflow.parentRunId": night.info.run_id}
    run_name = f"{name} {night.info.run_name.removeprefix(NIGHT_PREFIX)}"
    with _above_stages(paths, params, run_name, tags) as run_id:
        yield run_id


@contextmanager
def _above_stages(paths: Paths, params: Params, run_name: str, tags: Mapping[str, str]) -> Iterator[str]:
    """Opens a run of all params, below which every `stage` nests, and yields its id."""
    client = mlflow_store.open_client(paths)
    run_id = mlflow_store.create_run(client, paths, run_name, tags)
    before = os.environ.get(NIGHT_VARIABLE)
    os.environ[NIGHT_VARIABLE] = run_id
    try:
        with _ending(client, run_id):
            mlflow_store.log(client, run_id, params=_sections(params, list(params.model_dump(by_alias=True))))
            if (file := paths.root / "params.yaml").is_file():
                client.log_artifact(run_id, str(file))
            yield run_id
    finally:
        if before is None:
            os.environ.pop(NIGHT_VARIABLE, None)
        else:
            os.environ[NIGHT_VARIABLE] = before


@contextmanager
def stage(
    name: str,
    paths: Paths,
    params: Params,
    sections: Sequence[str] | None = None,
    inputs: Mapping[str, str] | None = None,
    door: str = "dvc",
) -> Iterator[StageRun]:
    """Opens a stage's run, below the open night or by itself, and listens to the figures of its steps.

    The caller logs the final figures with `run.log(metrics)`. Tables, plots and wall time are logged at the
    end; an error ends the run as FAILED, with the error as a tag.

    Args:
        sections: the sections of params.yaml that the stage gets; its own when not given.
        inputs: DVC's digest of each input, by its path from the workspace's root.
        door: for a stage that runs by itself; below a night the night's door holds.
    """
    client = mlflow_store.open_client(paths)
    night_id = os.environ.get(NIGHT_VARIABLE) or None
    tags, run_name = {**_origin(paths, door), "stage": name}, name
    if night_id:
        above = client.get_run(night_id)
        tags |= {"mlflow.parentRunId": night_id, "door": above.data.tags["door"]}
        # The date tells two nights' curves apart where only the runs' names label them.
        run_name = f"{name} {above.info.run_name.removeprefix(NIGHT_PREFIX)}"
    run = StageRun(name, mlflow_store.create_run(client, paths, run_name, tags), night_id, client)
    buffer = MetricBuffer(lambda points: mlflow_store.log(client, run.run_id, metrics=points))
    token, started = _stage.set(run), time.monotonic()
    try:
        with _ending(client, run.run_id, night_id, name):
            mlflow_store.log(client, run.run_id, params=_sections(params, [name] if sections is None else sections))
            mlflow_store.log_data_sets(client, run.run_id, inputs or {}, context=name)
            try:
                with listening(buffer), mlflow_store.watching_system(paths, run.run_id):
                    yield run
                _log_results(client, paths, name, run.run_id, night_id)
            finally:
                buffer.flush()
                run.log({"wall_time_s": time.monotonic() - started})
    finally:
        _stage.reset(token)


def current_stage() -> StageRun:
    """The open stage run.

    Raises:
        RuntimeError: none is open.
    """
    run = _stage.get()
    if run is None:
        raise RuntimeError("no stage run is open; call this stage by its command: python -m tasks <stage>")
    return run


def record_outputs(paths: Paths, run_id: str, outputs: Mapping[str, str]) -> None:
    """Writes the digests of a stage's outputs to its run, so that the data lead back to it."""
    client = mlflow_store.open_client(paths)
    mlflow_store.log(client, run_id, tags={f"output.{path}": digest for path, digest in outputs.items()})
    if (run := _stage.get()) and run.night_id:
        mlflow_store.log_data_sets(client, run.night_id, _learnt_from(outputs), "night")


def record_skipped(paths: Paths, name: str, how: str, outputs: Mapping[str, str]) -> str | None:
    """Writes to the night's run that a stage did not run, which run made its data, and the figures it has.

    Args:
        how: `cached` or `restored`.

    Returns:
        The id of that run, or None where this database does not know it.
    """
    runs = (find_run_by_output(paths, path, digest) for path, digest in outputs.items())
    source = next((run_id for run_id in runs if run_id), None)
    if night_id := os.environ.get(NIGHT_VARIABLE):
        file = paths.metrics(name)
        metrics = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        tags = {f"stage.{name}": how, f"stage.{name}.run": source or "not in this database"}
        client = mlflow_store.open_client(paths)
        mlflow_store.log(client, night_id, metrics=_of_stage(name, metrics), tags=tags)
        _log_results(client, paths, name, None, night_id)
        mlflow_store.log_data_sets(client, night_id, _learnt_from(outputs), "night")
    return source


def annotate_night(paths: Paths, run_id: str, tags: Mapping[str, str], text: str) -> None:
    """Records how a night ended: as tags of its run, and in words as the text on its page."""
    mlflow_store.log(mlflow_store.open_client(paths), run_id, tags={**tags, "mlflow.note.content": text})


def find_run_by_output(paths: Paths, path: str, digest: str) -> str | None:
    """The id of the latest finished run that made this content at this path, or None."""
    query = f"tags.`output.{path}` = '{digest}' and attributes.status = 'FINISHED'"
    return mlflow_store.find_run(mlflow_store.open_client(paths), paths, query)


def find_candidate(paths: Paths, night_id: str, name: str) -> str | None:
    """The id of the run that a candidate of a night had, or None."""
    query = f"tags.candidate = '{name}' and tags.`mlflow.parentRunId` = '{night_id}'"
    return mlflow_store.find_run(mlflow_store.open_client(paths), paths, query)


@contextmanager
def _ending(client: Any, run_id: str, night_id: str | None = None, name: str = "") -> Iterator[None]:
    """Ends a run as FINISHED, FAILED or KILLED, and records in the night's run how its stage ended."""
    status, how = "FAILED", "failed"
    try:
        yield
        status, how = "FINISHED", "ran"
    except DeadlineError:
        status, how = "KILLED", "deadline"
        raise
    except Exception as error:
        mlflow_store.log(client, run_id, tags={"error": f"{type(error).__name__}: {error}"})
        raise
    except BaseException:
        status, how = "KILLED", "interrupted"
        raise
    finally:
        client.set_terminated(run_id, status)
        if night_id:
            mlflow_store.log(client, night_id, tags={f"stage.{name}": how, f"stage.{name}.run": run_id})


def _learnt_from(outputs: Mapping[str, str]) -> dict[str, str]:
    return {path: digest for path, digest in outputs.items() if path.startswith(LEARNT_FROM)}


def _of_stage(name: str, metrics: Mapping[str, float]) -> list[Point]:
    return [(f"{name}.{key}", float(value), 0) for key, value in metrics.items()]


def _origin(paths: Paths, door: str) -> dict[str, str]:
    """The tags that say from what code a run came."""
    checkout = git.state(paths.root)
    tags = {"door": door, "mlflow.source.name": "nightjar"}
    tags |= {f"version.{name}": number for name, number in provenance.versions().items()}
    if experiment := os.environ.get("DVC_EXP_NAME"):
        tags["experiment"] = experiment
    if checkout:
        tags |= {"mlflow.source.git.commit": checkout["commit"], "git.dirty": checkout["dirty"]}
    return tags


def _sections(params: Params, names: Sequence[str]) -> dict[str, str]:
    return {key: text for name in names for key, text in provenance.flatten(params.section(name), name).items()}


def _log_results(client: Any, paths: Paths, name: str, run_id: str | None, night_id: str | None) -> None:
    """Tables, plots and intervals to the stage's run and the night's, every row to the stage's; None: no such run."""
    intervals, plots = samples.intervals(name, paths), samples.plots(name, paths)
    for title, table in samples.tables(name, paths).items():
        for run in filter(None, (run_id, night_id)):
            client.log_table(run, table, f"tables/{title}.json")
    if run_id:
        for file in plots:
            client.log_artifact(run_id, str(file), f"plots/{file.parent.name}" if name == "report" else "plots")
        for file in samples.complete_files(name, paths):
            client.log_artifact(run_id, str(file), "evaluation")
        mlflow_store.log(client, run_id, metrics=[(figure, value, 0) for figure, value in intervals.items()])
    if night_id:
        for file in (plot for plot in plots if plot.suffix == ".png"):
            client.log_artifact(night_id, str(file), f"plots/{file.parent.name}")
        mlflow_store.log(client, night_id, metrics=_of_stage(name, intervals))
