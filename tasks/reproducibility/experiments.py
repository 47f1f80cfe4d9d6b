"""Experiments: what made a night, kept in git beside the branch, so that it can be named, shown and restored.

A night's experiment is one commit: the code, the params, dvc.lock and the figures as the night left them, a child of
the commit that the night started from. It is stored where `dvc exp save` would store it, so `dvc exp show`, `apply`,
`branch`, `push` and `remove` know it. DVC's own `save` is not used, because it empties the working tree and puts it
back while people may be editing in it, and writes dvc.lock anew from whatever is there by then.
"""

from __future__ import annotations

import re
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

from tasks import graph
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.progress import say
from tasks.registry import versions
from tasks.stages import VERSIONED
from tasks.tracking import mlflow_store
from tasks.versioning import dvc_repo, git


class Experiment(NamedTuple):
    """A DVC experiment: its name and the commit that holds it."""

    name: str
    commit: str


def record(paths: Paths, params: Params, night_run_id: str, candidate: str | None = None) -> Experiment | None:
    """Keeps what made this night, and writes the experiment's name to its MLflow run and its policy version.

    Args:
        paths: the workspace that the night worked in; the experiment goes to the repository of its home.
        night_run_id: the night's MLflow run, which gives the name.
        candidate: one that was not chosen: its name is added, and it has no version.

    Returns:
        The experiment, or None (reported once) where git keeps nothing: no checkout, no commit yet, or it refuses.
    """
    client = mlflow_store.open_client(paths)
    night, policy = str(client.get_run(night_run_id).info.run_name), f"{params.register_.name}-policy"
    version = None if candidate else _version(client, policy, night_run_id)
    try:
        experiment = save(paths, "-".join(part for part in (night, candidate, version and f"v{version}") if part))
    except ValueError as error:
        say(f"no experiment is kept of {night}: {error}")
        return None
    if candidate is None:
        tags = {"experiment": experiment.name, "experiment.commit": experiment.commit}
        mlflow_store.log(client, night_run_id, tags=tags)
        if version:
            versions.tag(client, policy, version, tags)
    return experiment


def save(paths: Paths, name: str) -> Experiment:
    """Keeps the workspace as it is now under this name, or under the name with a number where that is used.

    Raises:
        ValueError: there is no git checkout, nothing is committed yet, or git refuses.
    """
    home = _checkout(paths)
    parent, used = git.head(home), {experiment.name for experiment in known(paths)}
    numbered = (f"{name}-{number}" for number in count(2))
    free = next(each for each in chain([name], numbered) if each not in used)
    if changed := dvc_repo.stale(paths.root):
        say(f"{free}: its files have changed since {', '.join(changed)} ran, and are kept as they are now")
    commit = git.commit_aside(home, paths.root, parent, _additions(paths), free)
    git.run(home, "update-ref", dvc_repo.experiment_ref(parent, free), commit, "")
    return Experiment(free, commit)


def known(paths: Paths) -> list[Experiment]:
    """The experiments of this checkout, whatever commit they started from, those of DVC's own making included.

    Raises:
        ValueError: this is no git checkout.
    """
    root = _checkout(paths)
    form = "--format=%(objectname) %(refname)"
    lines = (line.split() for line in git.run(root, "for-each-ref", form, dvc_repo.EXPERIMENTS).splitlines())
    refs = [(commit, ref.removeprefix(f"{dvc_repo.EXPERIMENTS}/").split("/")) for commit, ref in lines]
    # What has fewer parts is DVC's own: its queue, and what it applied last.
    return [Experiment(parts[2], commit) for commit, parts in refs if len(parts) == 3]


def find(paths: Paths, params: Params, which: str) -> tuple[Experiment, dict[str, str]]:
    """The experiment behind a policy version or a name, and the versions of the libraries that made it.

    Args:
        which: a policy version (3 or v3), `champion`, `challenger`, or an experiment's name or how it begins.

    Raises:
        ValueError: there is none, or several begin so.
    """
    client = mlflow_store.open_client(paths)
    if re.fullmatch(r"v?\d+|champion|challenger", which):
        version = versions.usable(versions.get_policy(client, params.register_.name, which))
        if "experiment.commit" not in version.tags:
            raise ValueError(
                f"policy version {version.version} has no experiment, so what made it is not known; a night that runs "
                "in a git checkout keeps one: nightjar run"
            )
        return Experiment(version.tags["experiment"], version.tags["experiment.commit"]), _libraries(version.tags)
    experiment = _named(known(paths), which)
    run_id = mlflow_store.find_run(client, paths, f"tags.`experiment.commit` = '{experiment.commit}'")
    return experiment, _libraries(client.get_run(run_id).data.tags if run_id else {})


def _named(experiments: list[Experiment], which: str) -> Experiment:
    """The experiment of this name; for a night's name, that of the policy which it registered, not of a candidate."""
    exact = [each for each in experiments if re.fullmatch(rf"{re.escape(which)}(-v\d+)?", each.name)]
    matches = exact or [each for each in experiments if each.name.startswith(which)]
    if len(matches) == 1:
        return matches[0]
    problem = "several experiments begin so" if matches else "no such experiment"
    listed = ", ".join(each.name for each in matches or experiments[-10:]) or "none was kept yet"
    raise ValueError(f"{which}: {problem}; give one of these, or a policy version: {listed}")


def _libraries(tags: dict[str, str]) -> dict[str, str]:
    return {name.removeprefix("version."): text for name, text in tags.items() if name.startswith("version.")}


def _version(client: Any, policy: str, night_run_id: str) -> int | None:
    """The policy version that this night registered."""
    registered = client.search_model_versions(f"name = '{policy}' and tags.night = '{night_run_id}'")
    return int(registered[0].version) if registered else None


def _checkout(paths: Paths) -> Path:
    home = paths.home or paths.root
    if not git.is_checkout(home):
        raise ValueError(f"{home} is no git checkout; make it one with: git init && git add -A && git commit -m start")
    return home


def _additions(paths: Paths) -> list[list[str]]:
    """What made the night, and the figures that it left, which DVC compares between experiments.

    Edits of what git tracks; new code, and new pointers to data that people added (`dvc add`); dvc.lock and the
    figures, though git ignores them. Other new files are no part of a night.
    """
    figures = [path for name in VERSIONED for path in (paths.metrics(name), paths.plots(name))]
    made = [paths.root / name for name in ("dvc.yaml", "dvc.lock", "params.yaml")] + figures
    existing = [path.relative_to(paths.root).as_posix() for path in made if path.exists()]
    folders = [name for name in (*graph.LAYERS, "data/source", "data/feedback") if (paths.root / name).is_dir()]
    # A candidate's workspace has not every folder's note; that is no removal.
    return [
        ["--update", "--", ".", ":(exclude,glob)data/*/README.md"],
        ["--ignore-removal", "--", *folders],
        ["--force", "--", *existing],
    ]
