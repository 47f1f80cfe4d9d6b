"""Carries a plan out: sources, registry and record together or not at all; then the copies, each by itself.

A copy that cannot be removed is named, and the command can be given again: it goes on with what is left.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from tasks import runner
from tasks.erasure import copies, records, sources
from tasks.erasure.descent import DID, MAY, Learner
from tasks.erasure.plan import Plan
from tasks.erasure.records import Forgotten
from tasks.erasure.request import digest
from tasks.erasure.sources import name_of
from tasks.files import write_json, write_text
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.registry import champion, decisions, retirement
from tasks.registry.decisions import Decision
from tasks.tracking import mlflow_store

CARDS = ("model_card.md", "reward_card.md")


def carry_out(paths: Paths, params: Params, plan: Plan, who: str, why: str) -> list[str]:
    """Removes the rows, retires what learnt from them, and records it.

    Args:
        who: who signs it.
        why: the reason; it is kept, so it names nobody.

    Returns:
        What could not be removed, and why; empty where all is done.

    Raises:
        ValueError: `why` or `who` names what is to be forgotten, or a source has changed since the plan was made.
        OSError: a source or the record could not be written; everything is as it was.
    """
    kept = f"{why}\n{who}"
    if re.search(rf"(?<!\w){re.escape(plan.request.id)}(?!\w)", kept, re.IGNORECASE) or plan.request.is_told(kept):
        raise ValueError("--why and --by are kept; say it without the id or the text that is to be forgotten")
    when = decisions.now()
    client = mlflow_store.open_client(paths) if (paths.mlruns / "mlflow.db").is_file() else None
    record = _record(plan, when, who, why)
    with (
        sources.rewritten(plan.files),
        _retired(client, plan, f"{when}: {why}"),
    ):
        records.append(paths, record)
    if plan.champion is not None:
        decisions.append(paths, _decision(plan.champion, when, why))
    runner.decide_again(paths)
    return [f"{name}: {error}" for name, error in _remove_copies(paths, client, plan)]


def _retired(client: Any, plan: Plan, why: str) -> AbstractContextManager[None]:
    numbers: dict[str, list[int]] = {}
    for each in plan.descent.learners:
        numbers.setdefault(each.model, []).append(each.version)
    return retirement.retired(client, numbers, why) if numbers else nullcontext()


def _record(plan: Plan, when: str, who: str, why: str) -> Forgotten:
    return Forgotten(
        when=when,
        who=who,
        why=why,
        kind=plan.request.kind,
        id_digest=digest([plan.request.id]),
        rows=dict(plan.rows),
        ids=digest(name_of(row) for _, rows in plan.files for row in rows),
        data=plan.descent.data,
        models=plan.descent.models,
        runs=plan.descent.runs,
        retired=_names(plan.versions(DID)),
        doubtful=_names(plan.versions(MAY)),
        measured=_names([each for each in plan.descent.versions if each.tested]),
        experiments=plan.experiments,
        objects=sorted(plan.cached),
        champion_before=plan.champion,
    )


def _names(versions: list[Learner]) -> list[str]:
    return [each.name for each in versions]


def _decision(version: int, when: str, why: str) -> Decision:
    return Decision(
        when=when,
        version=version,
        promoted=False,
        by="forget",
        reason=f"version {version} learnt from what was to be forgotten: {why}",
        findings=[],
        figures={},
        champion_before=version,
        champion_after=None,
    )


def _remove_copies(paths: Paths, client: Any, plan: Plan) -> Iterator[tuple[str, Exception]]:
    """Removes each copy; yields those that stay, with the error.

    Those by which the others are known go last, so that after a kill the command finds what is left: copies that have
    texts of the rows and no ids, then the pairs, which rankings lead to, then the rows themselves.
    """
    steps: dict[str, Callable[[], object]] = {}
    if client is not None and plan.request.kind == "annotator":
        steps["the annotator's name in the registry and its cards"] = partial(_erase_name, paths, client, plan)
    if plan.canaries:
        steps["the canaries in nights/register.json"] = partial(_remove_canaries, paths)
    cached = sorted(plan.cached.values(), key=lambda file: bool(copies.matching(file, plan.request)))
    for file in [*(paths.root / name for name in plan.artifacts), *cached]:
        steps[str(file)] = partial(file.unlink, missing_ok=True)
    for path in [*plan.scratch, *reversed(plan.outputs)]:
        steps[path.as_posix()] = partial(_remove, paths, paths.root / path)
    for name, step in steps.items():
        try:
            step()
        except OSError as error:
            yield name, error


def _remove(paths: Paths, folder: Path) -> None:
    if folder == paths.champion:
        champion.empty(paths)
    else:
        shutil.rmtree(folder)


def _remove_canaries(paths: Paths) -> None:
    report = json.loads(paths.registered.read_text(encoding="utf-8"))
    write_json(paths.registered, report | {"canaries": []})


def _erase_name(paths: Paths, client: Any, plan: Plan) -> None:
    for version in retirement.every(client):
        retirement.erase_annotator(client, version.name, int(version.version), plan.request.id)
    for card in (file for name in CARDS for file in (paths.mlruns / "artifacts").rglob(name)):
        text = card.read_text(encoding="utf-8")
        if (without := retirement.without_annotator(text, plan.request.id)) != text:
            write_text(card, without)
