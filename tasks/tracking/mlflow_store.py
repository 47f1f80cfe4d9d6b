"""MLflow's database and artifacts: what the tracker and the registry write through.

The only module that imports mlflow, and only when something is tracked. The database is mlruns/mlflow.db, the
artifacts lie in mlruns/artifacts.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.paths import Paths
from tasks.tracking.metric_buffer import Point

EXPERIMENT = "nightjar"
MAX_TAG_CHARACTERS = 5000
SYSTEM_METRICS_EVERY_S = 5.0


def database_uri(paths: Paths) -> str:
    """What to give MLflow as its tracking and registry URI."""
    return f"sqlite:///{(paths.mlruns / 'mlflow.db').resolve().as_posix()}"


def open_client(paths: Paths) -> Any:
    """MLflow's client on this workspace's database, which is created and migrated when it is new."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow

    for chatty in ("mlflow", "alembic"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    paths.mlruns.mkdir(parents=True, exist_ok=True)
    _link_database(paths)
    return mlflow.MlflowClient(tracking_uri=database_uri(paths), registry_uri=database_uri(paths))


def _link_database(paths: Paths) -> None:
    """Links mlflow.db at the root: the file that `mlflow ui` opens there when it is given no options."""
    link = paths.mlruns.parent / "mlflow.db"
    if link.is_symlink() or link.exists():
        return
    try:
        link.symlink_to(Path("mlruns") / "mlflow.db")
    except OSError:  # a file system without links: only the bare command is lost
        return


def experiment_id(client: Any, paths: Paths) -> str:
    """The id of the one experiment, which is created when it is new."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return str(experiment.experiment_id)
    location = (paths.mlruns / "artifacts").resolve().as_uri()
    return str(client.create_experiment(EXPERIMENT, artifact_location=location))


def create_run(client: Any, paths: Paths, run_name: str, tags: Mapping[str, str]) -> str:
    """Opens a run and returns its id."""
    run = client.create_run(experiment_id(client, paths), run_name=run_name, tags=dict(tags))
    return str(run.info.run_id)


def find_run(client: Any, paths: Paths, query: str) -> str | None:
    """The id of the latest run that MLflow's query finds, or None."""
    runs = find_runs(client, paths, query, 1)
    return str(runs[0].info.run_id) if runs else None


def find_runs(client: Any, paths: Paths, query: str, limit: int) -> list[Any]:
    """The runs that MLflow's query finds, latest first."""
    experiments, order = [experiment_id(client, paths)], ["start_time DESC"]
    return list(client.search_runs(experiments, query, max_results=limit, order_by=order))


def find_nights(client: Any, paths: Paths, prefix: str, limit: int = 200) -> list[Any]:
    """The runs whose names begin so and that have no parent run, latest first."""
    experiments, query = [experiment_id(client, paths)], f"attributes.run_name LIKE '{prefix}%'"
    runs = client.search_runs(experiments, query, max_results=limit, order_by=["start_time DESC"])
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def all_runs(client: Any, paths: Paths) -> list[Any]:
    """Every run that is not deleted, the earliest first, with its params, tags and data sets."""
    runs: list[Any] = []
    token: str | None = ""
    while token is not None:
        page = client.search_runs([experiment_id(client, paths)], order_by=["start_time ASC"], page_token=token or None)
        runs += page
        token = page.token or None
    return runs


def find_artifact(client: Any, run_id: str, name: str) -> Path | None:
    """The file of a run's artifact, or None where it has none of this name."""
    folder = name.rpartition("/")[0]
    if name not in [file.path for file in client.list_artifacts(run_id, folder or None)]:
        return None
    return Path(client.download_artifacts(run_id, name))


@contextmanager
def watching_system(paths: Paths, run_id: str) -> Iterator[None]:
    """While open, logs to a run how the processor, the memory, the disk, the network and the GPU are used.

    With MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false it writes nothing.
    """
    if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() in ("false", "0"):
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, SYSTEM_METRICS_EVERY_S, tracking_uri=database_uri(paths))
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def log(
    client: Any,
    run_id: str,
    metrics: Sequence[Point] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Writes figures, params and tags in as few calls as MLflow's limits allow (1000 and 100 a call)."""
    from mlflow.entities import Metric, Param, RunTag

    now_ms = int(time.time() * 1000)
    points = [Metric(key, value, now_ms, step) for key, value, step in metrics]
    for start in range(0, len(points), 1000):
        client.log_batch(run_id, metrics=points[start : start + 1000])
    settings = [Param(key, value) for key, value in (params or {}).items()]
    for start in range(0, len(settings), 100):
        client.log_batch(run_id, params=settings[start : start + 100])
    notes = [RunTag(key, value[:MAX_TAG_CHARACTERS]) for key, value in (tags or {}).items()]
    for start in range(0, len(notes), 100):
        client.log_batch(run_id, tags=notes[start : start + 100])


def log_data_sets(client: Any, run_id: str, digests: Mapping[str, str], context: str) -> None:
    """Writes the data sets that a run reads, by path and digest; `context` says what they were for."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    use = [InputTag("mlflow.data.context", context)]
    sets = [
        DatasetInput(Dataset(path, digest, "local", json.dumps({"uri": path})), use) for path, digest in digests.items()
    ]
    if sets:
        client.log_inputs(run_id, sets)


def get_run(client: Any, run_id: str) -> Any:
    """A run with its params and figures, or None where this database does not have it (any more)."""
    from mlflow import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException:
        return None


def checkpoint_of(paths: Paths, version: Any) -> Path:
    """The folder of the checkpoint that a model version serves.

    Raises:
        FileNotFoundError: its files are gone.
    """
    import mlflow

    try:
        # Asked to download a model by its id, MLflow would look it up in the database that the environment names.
        location = open_client(paths).get_logged_model(version.source.removeprefix("models:/")).artifact_location
        folder = Path(mlflow.artifacts.download_artifacts(location))
        flavor = mlflow.models.Model.load(str(folder)).flavors["python_function"]
    except (OSError, mlflow.MlflowException) as error:
        raise FileNotFoundError(f"{version.name} version {version.version}: its files are gone: {error}") from error
    return folder / str(flavor["artifacts"]["checkpoint"]["path"])


def log_pyfunc(paths: Paths, run_id: str, name: str, signature: Mapping[str, Any], **model: Any) -> tuple[str, str]:
    """Logs a model from a script and its artifacts below a run, and has it answer its own example.

    Args:
        signature: `inputs`, `outputs` and `params` as MLflow's JSON schemas.
        model: handed to mlflow.pyfunc.log_model (`python_model`, `artifacts`, `code_paths`, `input_example`).

    Returns:
        The model's id and its URI.

    Raises:
        RuntimeError: the logged model does not load or does not answer, where MLflow itself would only warn.
    """
    import mlflow

    mlflow.set_tracking_uri(database_uri(paths))
    mlflow.set_registry_uri(database_uri(paths))
    schema = mlflow.models.ModelSignature.from_dict({key: json.dumps(part) for key, part in signature.items()})
    search_path = list(sys.path)
    try:
        with mlflow.start_run(run_id=run_id):  # its exit ends the run early; whoever opened it ends it again
            info = mlflow.pyfunc.log_model(name=name, signature=schema, **model)
        mlflow.pyfunc.load_model(info.model_uri).predict(model["input_example"])
    except Exception as error:
        raise RuntimeError(f"{name}: the logged model does not answer its own example: {error}") from error
    finally:
        sys.path[:] = search_path  # loading puts the model's copy of our code before ours
    return info.model_id, info.model_uri
