"""The state of the nights, from their files alone: the last ones, the champion; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from zoneinfo import ZoneInfo

from rich import box
from rich.table import Table
from rich.text import Text

from tasks.paths import Paths
from tasks.registry import decisions, existing
from tasks.registry.decisions import Decision
from tasks.registry.versions import CHAMPION
from tasks.scheduling import history
from tasks.terminal import visible

SHOWN = 7
NEXT = "; name another (nightjar rollback --to VERSION), or let a night decide (nightjar run)"


def nights(paths: Paths, timezone: str) -> Table | None:
    """The last nights, the latest at the bottom; None before the first."""
    rows = history.read(paths)[-SHOWN:]
    if not rows:
        return None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("night", "took", "outcome", "policy"):
        table.add_column(column, no_wrap=True)
    table.add_column("why", overflow="fold")
    for night in rows:
        started = night.started.astimezone(ZoneInfo(timezone))
        version = "" if night.policy_version is None else f"v{night.policy_version}"
        took, why = duration(night.ended - night.started), night.why.removeprefix(night.outcome).lstrip(": ")
        table.add_row(f"{started:%Y-%m-%d %H:%M}", took, night.outcome, version, Text(visible(why)))
    return table


def champion(paths: Paths, name: str) -> str:
    """Who is champion, by the registry, and since when, by the decisions; what is gone, and what to do.

    Args:
        name: what registered models' names begin with.
    """
    past, now = decisions.read(paths), existing.read(paths, name)
    version, decided = now.aliases.get(CHAMPION), past[-1].champion_after if past else None
    missing = "".join(f"; {line}" for line in existing.notices(paths, name))
    if version in now.retired:
        return f"none: version {version} has the alias, and was retired ({now.retired[version]}){NEXT}{missing}"
    if version is None and (last := _last(past)) in now.retired:
        return f"none: version {last} was, and was retired ({now.retired[last]}){NEXT}{missing}"
    if version is None and decided in now.policies:
        return f"none: version {decided} was, and has lost the alias; give it back: nightjar rollback --to {decided}"
    if version is None:
        return f"none{missing or ' yet'}"
    if version != decided:
        return f"policy version {version}, made so in the registry itself{missing}"
    # The latest run of decisions that left this version in place began with the one that put it there.
    since = past[-1]
    for decision in reversed(past):
        if decision.champion_after != version:
            break
        since = decision
    return f"policy version {version} since {since.when}: {since.reason}{missing}"


def _last(past: Sequence[Decision]) -> int | None:
    """Who was champion last, by the decisions; None where nobody was."""
    return next((who for row in reversed(past) if (who := row.champion_after or row.champion_before)), None)


def duration(length: timedelta) -> str:
    """A length of time as people say it: 42 s, 7 min, 3 h 05 min."""
    seconds = round(length.total_seconds())
    if seconds < 60:
        return f"{seconds} s"
    minutes = seconds // 60
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
