"""The champion, copied from the registry to data/champion, where `sft` starts from it with sft.start: champion."""

from __future__ import annotations

import shutil

from tasks import digests
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.progress import say
from tasks.registry import versions
from tasks.tracking import mlflow_store


def check_out(paths: Paths, params: Params) -> int | None:
    """Makes data/champion hold the champion's checkpoint where sft.start is champion, else nothing.

    Called before the stages of a night that has something to do, and only then: a promotion alone reruns nothing.

    Returns:
        The champion's version; None where sft starts from the base model.

    Raises:
        FileNotFoundError: the champion's files are gone.
        ValueError: they are not those that were registered.
    """
    version = None
    if params.sft.start == "champion":
        version = versions.champion_of(mlflow_store.open_client(paths), params.register_.name)
    if version is None:
        empty(paths)
        return None
    content, name = version.tags["content"], f"{version.name} version {version.version}"
    if not paths.champion.is_dir() or digests.digest(paths.champion, [digests.NOTE]) != content:
        fresh = paths.champion.with_name("champion.partial")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(mlflow_store.checkpoint_of(paths, version), fresh)
        if digests.digest(fresh) != content:
            shutil.rmtree(fresh)
            raise ValueError(
                f"{name}: its files have changed since it was registered, so what starts from them could not be made "
                "again; promote another version (nightjar rollback --to VERSION), or set sft.start to base"
            )
        empty(paths)
        for file in fresh.iterdir():
            file.rename(paths.champion / file.name)
        fresh.rmdir()
    say(f"sft starts from the champion: {name}")
    return int(version.version)


def empty(paths: Paths) -> None:
    """Removes everything from data/champion but the note for people."""
    paths.champion.mkdir(parents=True, exist_ok=True)
    for path in paths.champion.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != digests.NOTE:
            path.unlink()
