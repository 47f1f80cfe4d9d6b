"""The nights before, as MLflow keeps them: each run of register has the profile of its night's data.

What came before is no input of a stage: two clones with the same data would give different outputs. So profiles are
compared where the world outside is asked anyway, in register, and nothing of it lies below data/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tasks.drift import page, profile
from tasks.drift.compare import Baseline, Measured
from tasks.drift.profile import Profile
from tasks.files import write_json, write_text
from tasks.params.register import DriftParams
from tasks.paths import Paths
from tasks.progress import warn
from tasks.tracking import mlflow_store

PROFILE, TAG = "drift/profile.jsonl.gz", "drift.profile"
"""A run's artifact, and the tag that holds its digest."""
RUNS_A_NIGHT = 8
"""So many runs are looked through for each night with other data: register may run several times on the same."""


def baselines(client: Any, paths: Paths, tonight: Profile, champion: Any, limit: int) -> list[Baseline]:
    """The champion's night, and the last nights together whose data or reward model were others than tonight's.

    Args:
        client: MLflow's.
        paths: the workspace.
        tonight: the night's profile.
        champion: the policy version in the registry, or None.
        limit: so many of the last nights.
    """
    compared = []
    if champion is not None:
        kept = _profile_of(client, champion.run_id)
        compared.append(Baseline("champion", f"champion {champion.version}", None if kept is None else [kept]))
    query = f"tags.`{TAG}` != '' and attributes.status = 'FINISHED'"
    runs = mlflow_store.find_runs(client, paths, query, RUNS_A_NIGHT * limit)
    others = {run.data.tags[TAG]: run.info.run_id for run in reversed(runs)}
    others.pop(profile.digest_of(tonight), None)
    known = (kept for run_id in reversed(others.values()) if (kept := _profile_of(client, run_id)))
    profiles = list(islice(known, limit))
    if profiles:
        title = f"the last {len(profiles)} nights" if len(profiles) > 1 else "the last night"
        compared.append(Baseline("nights", title, profiles))
    return compared


def keep(
    client: Any,
    run_id: str,
    paths: Paths,
    tonight: Profile,
    measured: Sequence[Measured],
    compared: Sequence[Baseline],
    params: DriftParams,
) -> Path:
    """Keeps the profile, the figures and their page with a run of MLflow's, the page in nights/ too; returns it."""
    text, path = page.render(measured, compared, params), paths.nights / "drift.html"
    write_text(path, text)
    with TemporaryDirectory() as folder:
        profile.write(Path(folder) / PROFILE, tonight)
        write_json(Path(folder) / "drift" / "figures.json", [asdict(each) for each in measured])
        write_text(Path(folder) / "drift" / "drift.html", text)
        client.log_artifacts(run_id, folder)
    mlflow_store.log(client, run_id, tags={TAG: profile.digest_of(tonight)})
    return path


def figures(measured: Sequence[Measured]) -> dict[str, float]:
    """What MLflow draws from night to night: each distance, its adjusted p, and how many warnings there were."""
    values: dict[str, float] = {}
    for each in measured:
        if each.distance is not None and each.adjusted is not None:
            key = f"drift.{each.baseline}.{each.figure}"
            values |= {key: each.distance, f"{key}.p": each.adjusted}
    return values | ({"drift.warnings": float(sum(each.drifted for each in measured))} if values else {})


def _profile_of(client: Any, run_id: str | None) -> Profile | None:
    """The profile that a run kept; None where it kept none that can be read, or is gone."""
    if not run_id or mlflow_store.get_run(client, run_id) is None:
        return None
    file = mlflow_store.find_artifact(client, run_id, PROFILE)
    try:
        return None if file is None else profile.read(file)
    except ValueError as error:
        warn(f"drift is not measured from the night of run {run_id}, whose profile cannot be read: {error}")
        return None
