"""What a night left in MLflow, found by the name that a person gives it; works after data/ was deleted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.files import read_rows
from tasks.paths import Paths
from tasks.registry import versions
from tasks.roles import ROLES, SCORERS
from tasks.tracking import mlflow_store
from tasks.tracking.samples import SAMPLES
from tasks.tracking.tracker import NIGHT_PREFIX

COMPLETIONS = "completions.jsonl"
LISTED = 8
"""Nights that an error names."""
GIVEN = re.compile(r"data/(source|feedback|raw|validated|champion)\b")
"""The data that a night is given, in the names of data sets."""


@dataclass(frozen=True)
class Result:
    """One night, or one registered policy, as it is compared.

    Attributes:
        name: the title of its column.
        outcome: how the night ended, where it is recorded.
        commit: the code, with a plus where it was changed; empty where there was no git.
        params: every param, by its dotted name.
        metrics: final figures, by `<stage>.<figure>`.
        data: digests of what it was given, by path.
        scorers: digests of the models that it was scored by, by scorer.
        samples: a row per test prompt: sampled completions of SFT and policy, and their scores.
        completions: a row per test prompt: the likeliest completions, and their scores.
    """

    name: str
    outcome: str
    commit: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    data: Mapping[str, str]
    scorers: Mapping[str, str]
    samples: list[dict[str, Any]]
    completions: list[dict[str, Any]]


def find(paths: Paths, name: str, registered: str) -> Result:
    """The result of this name.

    Args:
        paths: the workspace.
        name: a night's name or its beginning, `last`, `v3`, `champion`, `challenger`, or the id of an MLflow run.
        registered: the name that params give to the registry (register.name).

    Raises:
        ValueError: there is none such, more than one, or it never reached evaluate; the message lists nights.
    """
    client = mlflow_store.open_client(paths)
    if name in (versions.CHAMPION, versions.CHALLENGER) or re.fullmatch(r"v\d+", name):
        version = versions.get_policy(client, registered, name)
        stages = {key.removeprefix("run."): run_id for key, run_id in version.tags.items() if key.startswith("run.")}
        night = mlflow_store.get_run(client, version.tags.get("night", ""))
        shown = f"v{version.version}" + (f" ({night.info.run_name})" if night else "")
        return _result(client, shown, night, stages)
    run = (
        mlflow_store.get_run(client, name) if re.fullmatch(r"[0-9a-f]{32}", name) else _find_night(client, paths, name)
    )
    if run is None:
        raise ValueError(f"{name}: no such run in {paths.mlruns / 'mlflow.db'}; {_nights(client, paths)}")
    if stage := run.data.tags.get("stage"):
        above = mlflow_store.get_run(client, run.data.tags.get("mlflow.parentRunId", ""))
        if above is None:
            return _result(client, f"{stage} {run.info.run_id[:8]}", None, {stage: run.info.run_id})
        run = above
    keys = ((key.split("."), run_id) for key, run_id in run.data.tags.items())
    stages = {parts[1]: run_id for parts, run_id in keys if parts[0] == "stage" and parts[2:] == ["run"]}
    return _result(client, run.info.run_name, run, stages)


def _find_night(client: Any, paths: Paths, name: str) -> Any:
    """The run of a night, or None; of several with just this name the latest."""
    if name == "last":
        nights = mlflow_store.find_nights(client, paths, NIGHT_PREFIX)
        return next((run for run in nights if "evaluate.win_rate" in run.data.metrics), None)
    prefix = name if name.startswith(NIGHT_PREFIX) else f"{NIGHT_PREFIX}{name}"
    nights = mlflow_store.find_nights(client, paths, prefix.replace("'", ""))
    names = list(dict.fromkeys(run.info.run_name for run in nights))
    if len(names) > 1 and prefix not in names:
        raise ValueError(f"{name}: the names of several nights begin so; give one of {', '.join(names)}")
    return next((run for run in nights if run.info.run_name == prefix), nights[0] if nights else None)


def _nights(client: Any, paths: Paths) -> str:
    nights = mlflow_store.find_nights(client, paths, NIGHT_PREFIX, LISTED)
    if not nights:
        return "no night ran here yet: nightjar run"
    lines = "".join(
        f"\n  {run.info.run_name}  {run.data.tags.get('outcome', run.info.status.lower())}"
        f"{'  ' + run.data.tags['policy_version'] if 'policy_version' in run.data.tags else ''}"
        for run in nights
    )
    return f"give last, champion, a version such as v1, the id of an MLflow run, or one of the nights:{lines}"


def _result(client: Any, name: str, night: Any, stages: Mapping[str, str]) -> Result:
    runs = {stage: run for stage, run_id in stages.items() if (run := mlflow_store.get_run(client, run_id))}
    if "evaluate" not in runs:
        raise ValueError(f"{name}: its policy was never evaluated, so there is nothing to compare; give another")
    evaluate = runs["evaluate"]
    inputs = _data_sets(evaluate)
    # The night's run also has figures of stages that it skipped: they were read from those stages' files.
    metrics = {} if night is None else {key: value for key, value in night.data.metrics.items() if "/" not in key}
    params = {} if night is None else dict(night.data.params)
    data: dict[str, str] = {}
    for stage, run in runs.items():
        metrics |= {f"{stage}.{key}": value for key, value in run.data.metrics.items() if "/" not in key}
        params |= run.data.params
        data |= {path: digest for path, digest in _data_sets(run).items() if GIVEN.match(path)}
    tags = (night or evaluate).data.tags
    commit = tags.get("mlflow.source.git.commit", "")[:9]

    def rows(file: str) -> list[dict[str, Any]]:
        artifact = mlflow_store.find_artifact(client, evaluate.info.run_id, f"evaluation/{file}")
        return [row for _, row in read_rows(artifact)] if artifact else []

    return Result(
        name=name,
        outcome=tags.get("outcome", ""),
        commit=commit + ("+" if commit and tags.get("git.dirty") == "yes" else ""),
        params=params,
        metrics=metrics,
        data=data,
        scorers={role: inputs[path] for role in SCORERS if (path := ROLES[role].path) and path in inputs},
        samples=rows(SAMPLES),
        completions=rows(COMPLETIONS),
    )


def _data_sets(run: Any) -> dict[str, str]:
    return {each.dataset.name: each.dataset.digest for each in run.inputs.dataset_inputs}
