"""Reproduces a night: its code, params and data in a folder of their own, from scratch, compared with what it recorded.

What is reproduced is an experiment (experiments.py). Its commit is checked out beside the workspace; the files that
people gave that night come from data/raw/received in DVC's cache; each stage then runs on the commit's own code
with an empty cache, and the digest of each of its outputs is compared with the night's dvc.lock. The first stage that
differs ends it, for all later ones depend on it. The workspace is only read. The command is `nightjar reproduce`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tasks import digests
from tasks.params.whole import read_params
from tasks.paths import Paths
from tasks.progress import say
from tasks.registry import versions
from tasks.reproducibility.experiments import Experiment
from tasks.tracking import mlflow_store
from tasks.versioning import dvc_repo, git, provenance
from tasks.versioning.dvc_repo import Digests, Outcome

OWN_SETTINGS = "[core]\n    site_cache_dir = {cache}\n[cache]\n    dir = {cache}\n"


class Difference(NamedTuple):
    """An output that differs; `files` are those that differ in a folder, where they are known."""

    path: str
    files: list[str]


class Reproduction(NamedTuple):
    """The stages whose outputs are as recorded, with how many outputs each; and the first that differs, if one does."""

    identical: dict[str, int]
    stage: str | None = None
    differences: Sequence[Difference] = ()


def other_versions(recorded: dict[str, str]) -> list[str]:
    """The libraries that are installed in another version than was recorded, as `torch 2.13.0 (then 2.12.1)`."""
    now = provenance.versions()
    return [
        f"{name} {now.get(name, 'missing')} (then {then})" for name, then in recorded.items() if now.get(name) != then
    ]


def reproduce(paths: Paths, experiment: Experiment, keep: Path | None = None, until: str | None = None) -> Reproduction:
    """Runs an experiment's stages again and compares each output's digest, saying each stage's result as it comes.

    Args:
        keep: an empty or new folder to work in, which stays; a temporary one when not given.
        until: the last stage to run; all of them when not given.

    Raises:
        FileNotFoundError: what the experiment was made from is no longer there.
        ValueError: the commit is gone, `keep` holds something, or a stage fails.
    """
    with _folder(keep) as folder:
        _check_out(paths, experiment, folder)
        recorded = _up_to(until, dvc_repo.recorded(folder), experiment)
        _copy_sources(paths, experiment, folder, recorded)
        if changed := _changed(folder, recorded):
            say(f"{', '.join(changed)} changed during the night; the experiment holds the later text")
        identical: dict[str, int] = {}
        for name, then in recorded.items():
            if differences := _run_again(name, folder, then.outputs, paths.root):
                return Reproduction(identical, name, differences)
            identical[name] = len(then.outputs)
        return Reproduction(identical)


def render(reproduction: Reproduction) -> list[str]:
    """The verdict, as lines for people."""
    outputs = sum(reproduction.identical.values())
    same = f"identical: {', '.join(reproduction.identical)} ({outputs} outputs, digest for digest)"
    if reproduction.stage is None:
        return [same]
    lines = [f"differs: {reproduction.stage}"]
    for path, files in reproduction.differences:
        more = f" and {len(files) - 1} more of its files" if len(files) > 1 else ""
        lines.append(f"  {path}{f': {files[0]}{more}' if files else ''}")
    return [*([same] if reproduction.identical else []), *lines]


def _run_again(name: str, folder: Path, wanted: Digests, home: Path) -> list[Difference]:
    """Runs a stage and reports whether it is identical; returns the outputs that differ."""
    started = time.monotonic()
    outcome = dvc_repo.reproduce(name, folder, lambda: _run(name, folder))
    assert outcome.status == "ran"  # what comes out of a cache proves nothing
    made = outcome.outputs
    paths = [path for path in sorted(wanted.keys() | made.keys()) if wanted.get(path) != made.get(path)]
    say(f"{name:<9} {'differs' if paths else 'identical':<9} {time.monotonic() - started:6.1f} s")
    return [Difference(path, _files_differing(home, wanted.get(path), folder, made.get(path))) for path in paths]


def _changed(folder: Path, recorded: dict[str, Outcome]) -> list[str]:
    """The code whose text is not the one that the stages ran with."""
    code = {path: text for then in recorded.values() for path, text in then.inputs.items() if path.endswith(".py")}
    return sorted(path for path, text in code.items() if provenance.digests(Paths(folder), [path]) != {path: text})


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="nightjar-") as name:
            yield Path(name).resolve()
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise ValueError(f"{keep}: holds something already; give an empty or new folder")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep.resolve()


def _check_out(paths: Paths, experiment: Experiment, folder: Path) -> None:
    """The experiment's commit in a clone of its own, which no cache but its own serves."""
    home = (paths.home or paths.root).resolve()
    try:
        git.run(home, "cat-file", "-e", f"{experiment.commit}^{{commit}}")
    except ValueError:
        raise ValueError(
            f"{experiment.name}: its commit {experiment.commit[:8]} is not in this checkout; where it was pushed, "
            f"fetch it with: dvc exp pull origin {experiment.name}"
        ) from None
    git.run(home, "clone", "--quiet", "--shared", "--no-checkout", str(home), str(folder))
    git.run(folder, "checkout", "--quiet", "--detach", experiment.commit)
    settings = OWN_SETTINGS.format(cache=folder / ".dvc" / "cache")
    (folder / ".dvc" / "config.local").write_text(settings, encoding="utf-8")


def _up_to(until: str | None, recorded: dict[str, Outcome], experiment: Experiment) -> dict[str, Outcome]:
    names = list(recorded)
    if until is not None and until not in names:
        raise ValueError(f"{until}: {experiment.name} has no such stage; its stages are {', '.join(names)}")
    chosen = {name: recorded[name] for name in (names[: names.index(until) + 1] if until else names)}
    if missing := [name for name, then in chosen.items() if not then.outputs]:
        raise ValueError(f"{experiment.name}: its dvc.lock has no {', '.join(missing)}; it was no complete night")
    return chosen


def _copy_sources(paths: Paths, experiment: Experiment, folder: Path, recorded: dict[str, Outcome]) -> None:
    """Copies in what no stage writes: the files that people gave, and the champion that the night started from."""
    target = Paths(folder)
    for path in target.external:
        path.mkdir(parents=True, exist_ok=True)
    raw = recorded["ingest"].outputs["data/raw"]
    cached = dvc_repo.cached_folder(paths.root, raw)
    if cached is None and dvc_repo.fetch(paths.root, "data/raw", experiment.commit):
        cached = dvc_repo.cached_folder(paths.root, raw)
    if cached is None:
        raise FileNotFoundError(
            f"{experiment.name}: what it was made from (data/raw, {raw}) is neither in DVC's cache nor in a remote; "
            "restore the cache, or name the remote that it was pushed to: dvc remote add --default"
        )
    for name, file in cached.items():
        if name.startswith("received/"):
            _copy(file, target.data / name.removeprefix("received/"))
    champion = recorded["sft"].inputs.get("data/champion", digests.EMPTY) if "sft" in recorded else digests.EMPTY
    if champion != digests.EMPTY:
        _copy_champion(paths, champion, target)


def _copy_champion(paths: Paths, content: str, target: Paths) -> None:
    if cached := dvc_repo.cached_folder(paths.root, content):
        for name, file in cached.items():
            _copy(file, target.champion / name)
        return
    client = mlflow_store.open_client(paths)
    model = f"{read_params(target.root / 'params.yaml').register_.name}-policy"
    version = versions.find_version(client, model, content)
    if version is None:
        raise FileNotFoundError(
            f"the champion that this night started from ({content}) is not in DVC's cache and no version of {model}; "
            "restore the cache, or stop before it with: --until validate"
        )
    shutil.copytree(mlflow_store.checkpoint_of(paths, version), target.champion, dirs_exist_ok=True)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _run(name: str, folder: Path) -> None:
    """A stage on the code of the folder, in a process of its own that knows neither this night nor DVC's."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "NIGHTJAR_"))}
    done = subprocess.run([sys.executable, "-m", "tasks", name], cwd=folder, env=environment, check=False)
    if done.returncode:
        raise ValueError(f"{name}: failed; see its output above")


def _files_differing(home: Path, wanted: str | None, folder: Path, made: str | None) -> list[str]:
    """The files of a folder that differ, by name; empty for a file, or where the cache no longer knows what was."""
    listings = [
        dvc_repo.cached_folder(root, digest)
        for root, digest in ((home, wanted), (folder, made))
        if digest and digest.endswith(".dir")
    ]
    if len(listings) < 2 or None in listings:
        return []
    # A cache names a file by its content: its last two parts are the digest.
    then, now = ({name: file.parts[-2:] for name, file in (listing or {}).items()} for listing in listings)
    return sorted(name for name in then.keys() | now.keys() if then.get(name) != now.get(name))
