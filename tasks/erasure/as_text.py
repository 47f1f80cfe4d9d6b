"""A plan as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.erasure.descent import DID, MAY
from tasks.erasure.plan import Plan


def render(plan: Plan) -> list[str]:
    """What goes, what is retired, what is named, who serves then, and what a person has to see to."""
    lines = [f"to forget: {plan.request.kind} {plan.request.id}", "", "removed:"]
    for file, rows in plan.files:
        rest = "" if len(rows) < len(file.rows) else ", the file with them"
        lines.append(f"  {file.shown}: {len(rows)} of {len(file.rows)} rows{rest}")
    lines += [f"  {path}/, which the next night writes anew" for path in map(Path.as_posix, plan.outputs)]
    lines += [f"  {path}/, which nights write anew where they need it" for path in map(Path.as_posix, plan.scratch)]
    lines += [f"  DVC's cache: {len(plan.cached)} files"] * bool(plan.cached)
    lines += [f"  MLflow: {path.as_posix()}" for path in plan.artifacts]
    lines += ["  nights/register.json: the canaries in it"] * plan.canaries
    lines += ["", "retired:"]
    for level, how in ((DID, "learnt from them"), (MAY, "may have: what it learnt from is no longer there")):
        for each in plan.versions(level):
            aliases = f" ({', '.join(each.aliases)})" if each.aliases else ""
            lines.append(f"  {each.name}{aliases}: {how}")
    lines += ["  no registered version"] * (not plan.descent.learners)
    lines += ["", "named:"]
    for path, contents in {**plan.descent.data, **plan.descent.models}.items():
        lines += [f"  {path} {content}" for content in contents]
    for each in plan.descent.versions:
        lines += [f"  {each.name}: measured on them, learnt nothing from them"] * each.tested
    lines += [f"  MLflow run {run}" for run in plan.descent.runs]
    lines += [
        f"  DVC experiment {name}, which cannot be made again: dvc exp remove {name}" for name in plan.experiments
    ]
    lines += _serving(plan)
    if plan.notes:
        lines += ["", "for you to see to:", *(f"  {note}" for note in plan.notes)]
    return lines


def _serving(plan: Plan) -> Iterator[str]:
    """Who serves until the next night, where the champion is retired."""
    if plan.champion is None:
        return
    yield from (
        "",
        f"policy version {plan.champion}, the champion, learnt from them: from now on there is no champion.",
    )
    if plan.back is None:
        yield "No other version is free of them: chat and servers have none until a night promotes one."
    else:
        yield f"Version {plan.back} is free of them; to serve it until a night promotes another: " + (
            f"nightjar rollback --to {plan.back}"
        )
