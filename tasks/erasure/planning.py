"""Makes the plan: where the rows lie, which copies there are, and what learnt from them. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks import digests
from tasks.erasure import copies, descent, notes, records, sources
from tasks.erasure.descent import DID, READABLE, Descent, Learner
from tasks.erasure.plan import Plan
from tasks.erasure.request import Request
from tasks.erasure.request import digest as digest_of
from tasks.erasure.sources import SourceFile, SourceRow, name_of
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.registry import decisions, existing
from tasks.registry.versions import CHAMPION
from tasks.reproducibility import experiments
from tasks.stages import STAGES, VERSIONED
from tasks.tracking import mlflow_store
from tasks.versioning import dvc_repo, git

RECEIVED = ("demonstrations", "prompts", "general")
"""The files of data/raw that ingest writes from a source; general.jsonl from ingest.general."""
SIMULATED = "simulated"


def make(paths: Paths, params: Params, wanted: Request) -> Plan:
    """Looks for the rows everywhere, and for what learnt from them.

    Raises:
        ValueError: nothing matches, a row of a source cannot be read, a file cannot be rewritten, or the rows come from
            a source that is not in this workspace, so that they would come back.
    """
    read, unread = sources.read(paths)
    cache = dvc_repo.cached_files(paths.root)
    objects = {md5: file for md5, file in cache.items() if not md5.endswith(".dir")}
    workspace = sorted(_existing(paths))
    if wanted.kind == "annotator" and wanted.id == SIMULATED and params.rank.annotator == SIMULATED:
        raise ValueError(
            f"annotator {SIMULATED}: nobody's data; every night has it rank anew (rank.annotator: {SIMULATED}), so its "
            "rankings would come back; nothing was changed. Set rank.annotator to people, and give the command again"
        )
    wanted, files = _identified(wanted, read, [*copies.files_below(*workspace), *objects.values()])
    sources.check(paths, [file for file, _ in files])
    _check_origin(paths, params, wanted, files)

    held = {md5: file for md5, file in objects.items() if copies.holds(file, wanted)}
    held_outputs = {path for path in workspace if copies.holding(copies.files_below(path), wanted)}
    holding, known = _digests(paths, cache, held, held_outputs)
    client = mlflow_store.open_client(paths) if (paths.mlruns / "mlflow.db").is_file() else None
    runs = mlflow_store.all_runs(client, paths) if client else []
    recorded = {name for record in records.read(paths) for name in (*record.retired, *record.doubtful)}
    traced = descent.trace(client, runs, wanted, holding, known, recorded)
    files_of_runs = copies.files_below(paths.mlruns / "artifacts")
    artifacts = [file.relative_to(paths.root) for file in copies.holding(files_of_runs, wanted)]
    canaries = paths.registered.is_file() and copies.holds(paths.registered, wanted)
    if not (files or held or held_outputs or artifacts or canaries or traced.any_sure):
        raise ValueError(_nothing(paths, wanted, unread))

    pairs = _pairs_of(traced, cache)
    champion = next((each.version for each in traced.learners if _is_champion(paths, each, params)), None)
    outputs = _outputs(paths, held_outputs, traced)
    kept = sorted(digest for digest in traced.levels if traced.levels[digest])
    plan = Plan(
        request=wanted,
        files=files,
        outputs=outputs,
        scratch=_scratch(paths),
        cached={**held, **pairs},
        artifacts=artifacts,
        canaries=canaries,
        experiments=_experiments(paths, kept),
        descent=traced,
        champion=champion,
        back=_back(paths, traced, params) if champion else None,
        notes=[],
    )
    return replace(plan, notes=[*notes.of_plan(paths, params, plan, unread)])


def _identified(
    wanted: Request, read: Sequence[SourceFile], others: Sequence[Path]
) -> tuple[Request, list[tuple[SourceFile, list[SourceRow]]]]:
    """The request with all that tells its rows from others, and the rows of the sources that it means."""
    at = {f"{file.shown}:{name_of(row)}": (file, row) for file in read for row in file.rows}
    if wanted.kind == "row" and wanted.id in at:
        file, row = at[wanted.id]
        wanted = replace(wanted, id=name_of(row), contents=(file.values(row),))
    named = [(file, row) for file in read for row in file.rows if wanted.matches(row.values)]
    wanted = wanted.of_prompts(row.values for _, row in named)
    if wanted.kind == "row" and not wanted.contents:
        _check_one(named)
        if named and all(row.first in file.made for file, row in named):
            wanted = replace(wanted, contents=tuple(file.values(row) for file, row in named))
    if not named and wanted.kind == "prompt":
        wanted = copies.prompts(others, wanted)
    chosen = [(file, rows) for file in read if (rows := file.chosen(wanted))]
    going: list[Mapping[str, Any]] = [row.values for _, rows in chosen for row in rows]
    if not going:
        going = [row for file in others for row in copies.matching(file, wanted)]
    lines = {(file.shown, row.first) for file, rows in chosen for row in rows}
    staying = (row.values for file in read for row in file.rows if (file.shown, row.first) not in lines)
    return wanted.of_texts(going, staying), chosen


def _check_one(named: Sequence[tuple[SourceFile, SourceRow]]) -> None:
    """Raises ValueError where an id is that of several rows which are not the same: ids are unique in a file alone."""
    if any(file.values(row) != named[0][0].values(named[0][1]) for file, row in named):
        listed = ", ".join(f"{file.shown}:{name_of(row)}" for file, row in named)
        raise ValueError(f"several rows have this id; name the file too, one of: {listed}")


def _check_origin(
    paths: Paths, params: Params, wanted: Request, files: Sequence[tuple[SourceFile, list[SourceRow]]]
) -> None:
    """Raises ValueError where rows come from a source that every night reads or generates anew."""
    given = {name_of(row) for _, rows in files for row in rows}
    for name in RECEIVED:
        origin = params.ingest.general if name == "general" else params.ingest.source
        file = paths.raw / f"{name}.jsonl"
        if origin is None or not (origin == "builtin" or origin.startswith("hub:")) or not file.is_file():
            continue
        back = [row for row in copies.matching(file, wanted) if str(row.get("id")) not in given]
        if back:
            field = "general" if name == "general" else "source"
            raise ValueError(
                f"{len(back)} rows of data/raw/{name}.jsonl come from ingest.{field} {origin}, which every night reads "
                "anew, so they would come back; nothing was changed. Put the data below data/source without them, "
                f"name that in ingest.{field}, and give the command again"
            )


def _existing(paths: Paths) -> Iterator[Path]:
    for name in VERSIONED:
        yield from (paths.root / path for path in STAGES[name].writes if (paths.root / path).exists())


def _digests(
    paths: Paths, cache: Mapping[str, Path], held: Collection[str], held_outputs: Collection[Path]
) -> tuple[set[str], set[str]]:
    """The digests of files and folders that hold the rows, and of all that could be read, in the cache or here."""
    holding, known = set(held), {md5 for md5 in cache if not md5.endswith(".dir")}
    for md5, file in cache.items():
        if md5.endswith(".dir"):
            parts = set(dvc_repo.listing(file).values())
            if parts & holding:
                holding.add(md5)
            if parts <= known or md5 in holding:
                known.add(md5)
    for path in (paths.root / name for name in READABLE):
        if path.exists():
            known.add(digest := digests.digest(path))
            holding |= {digest} if path in held_outputs else set()
    return holding, known


def _outputs(paths: Paths, held: Collection[Path], traced: Descent) -> list[Path]:
    """What stages wrote here that holds the rows or was made by what learnt from them, by its path from the root."""
    gone: list[str] = []
    for name in VERSIONED:
        stage = STAGES[name]
        learnt = any(f"{read}/".startswith(f"{path}/") for read in stage.reads for path in gone)
        for path in stage.writes:
            if not (paths.root / path).exists():
                continue
            if paths.root / path in held or (learnt and path not in READABLE) or _level(paths, path, traced):
                gone.append(path)
    present = any(file.name != digests.NOTE for file in copies.files_below(paths.champion))
    if present and traced.levels.get(digests.digest(paths.champion, [digests.NOTE])):
        gone.append("data/champion")
    return [Path(path) for path in gone]


def _level(paths: Paths, path: str, traced: Descent) -> int:
    """What is known of an output; only where something is, for reading a model takes time."""
    return traced.levels.get(digests.digest(paths.root / path), 0) if path in traced.models else 0


def _scratch(paths: Paths) -> list[Path]:
    """Workspaces of candidates and seeds, checkpoints, skipped batches, Data Docs: they hold copies, or learnt."""
    folders = [paths.checkpoints, paths.nights / "bad_batches", paths.data_docs]
    for parent in (paths.workspace_of("").root, paths.nights / "seeds"):
        folders += [folder for folder in sorted(parent.glob("*")) if folder.is_dir()]
    return [folder.relative_to(paths.root) for folder in folders if folder.is_dir()]


def _pairs_of(traced: Descent, cache: Mapping[str, Path]) -> dict[str, Path]:
    """The cached pairs of rankings that are to go: a pair has no id of its own.

    A file that a folder without such rows has too, an empty one among them, holds none.
    """
    parts = {name: {*dvc_repo.listing(file).values()} for name, file in cache.items() if name.endswith(".dir")}
    affected = set[str]().union(*(parts[name] for name in traced.pairs & parts.keys()))
    free = set[str]().union(*(parts[name] for name in parts if traced.levels.get(name) != DID))
    return {md5: cache[md5] for md5 in affected - free if md5 in cache}


def _experiments(paths: Paths, affected: Sequence[str]) -> list[str]:
    if not git.is_checkout(paths.root) or not affected:
        return []
    names = []
    for each in experiments.known(paths):
        try:
            lock = git.run(paths.root, "show", f"{each.commit}:dvc.lock")
        except ValueError:  # it has none
            continue
        if any(digest in lock for digest in affected):
            names.append(each.name)
    return sorted(names)


def _is_champion(paths: Paths, each: Learner, params: Params) -> bool:
    if each.model != f"{params.register_.name}-policy":
        return False
    past = decisions.read(paths)
    was = each.retired and bool(past) and past[-1].champion_after == each.version  # cut off, and not written down yet
    return was or CHAMPION in each.aliases


def _back(paths: Paths, traced: Descent, params: Params) -> int | None:
    """The latest version that learnt nothing from the rows, one that was champion once before others.

    Not one whose reward model was deleted from the registry, for rollback moves both.
    """
    name = params.register_.name
    now = existing.read(paths, name)
    free = [
        each
        for each in traced.versions
        if each.model == f"{name}-policy" and not (each.level or each.retired)
        if now.reward_of.get(each.version) in {None, *now.rewards}
    ]
    return max(free, key=lambda each: (each.promoted, each.version)).version if free else None


def _nothing(paths: Paths, wanted: Request, unread: Sequence[str]) -> str:
    same = (
        each for each in records.read(paths) if each.id_digest == digest_of([wanted.id]) and each.kind == wanted.kind
    )
    before = max((each.when for each in same), default=None)
    ago = f"; it was forgotten on {before}" if before else ""
    also = f"; not searched, for nothing reads them: {', '.join(unread)}" if unread else ""
    return (
        f"{wanted.kind} {wanted.id}: no row of data/source or data/feedback is of it, no copy holds one, and no "
        f"registered version names it{ago}; check the id{also}"
    )
