"""The night as a Prefect flow: one task per stage, in the graph's order, each run only when it is due.

Prefect keeps what it knows where it always does (PREFECT_HOME, by default the user's ~/.prefect), so a
plain `prefect server start` shows the nights that ran here without a server. With PREFECT_API_URL set,
they report to that server.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks import runner, stages, tracking
from tasks.params import Params, read_params
from tasks.paths import Paths

HUB_RETRIES_S = [10.0, 60.0]
"""How long to wait before asking a Hub again; no other stage fails in a way that waiting mends."""


@flow(name="night", persist_result=False)
def night(root: str, preset: str | None = None) -> dict[str, str]:
    """Brings every stage up to date, in order.

    Args:
        root: the workspace.
        preset: the preset that its params are, where they are one.

    Returns:
        How each stage came up to date: ran, cached or restored.
    """
    paths = Paths(Path(root))
    params = read_params(paths.root / "params.yaml")
    states: dict[str, Any] = {}
    with tracking.night(paths, params, "flow", preset):
        for name in stages.STAGES:
            stage = stage_task(name, params, _bring_up_to_date)
            waits = [states[earlier] for earlier in upstream(name)]
            states[name] = stage(name, paths, params, return_state=True, wait_for=waits)
            states[name].result()  # raises the stage's own error
        _show(paths)
    return {name: state.result() for name, state in states.items()}


def stage_task(name: str, params: Params, action: Callable[..., str]) -> Any:
    """A stage's task: DVC is the one cache, and only a Hub is asked twice."""
    sources = (params.ingest.source, params.ingest.general or "")
    from_hub = name == "ingest" and any(source.startswith("hub:") for source in sources)
    return task(
        name=name,
        description=f"python -m tasks {name}",
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(HUB_RETRIES_S) if from_hub else 0,
        retry_delay_seconds=HUB_RETRIES_S if from_hub else None,
    )(action)


def upstream(name: str) -> list[str]:
    """The stages whose outputs this one reads: the edges of the graph, as the Prefect UI draws them."""
    reads = stages.STAGES[name].reads

    def feeds(earlier: str) -> bool:
        return any(f"{read}/".startswith(f"{written}/") for read in reads for written in stages.STAGES[earlier].writes)

    return [earlier for earlier in stages.STAGES if feeds(earlier)]


def _bring_up_to_date(name: str, paths: Paths, params: Params) -> str:
    started = time.monotonic()
    outcome = runner.bring_up_to_date(name, paths, params)
    line = f"{name:<9} {outcome.status:<9} {time.monotonic() - started:6.1f} s"
    print(line, flush=True)
    get_run_logger().info(line)
    return outcome.status


def _show(paths: Paths) -> None:
    """Puts the summary and the way to the details beside the night in the Prefect UI."""
    from tasks import summary

    create_markdown_artifact(summary.markdown(paths), key="summary", description="SFT beside policy")
    links = "\n".join(f"    {line}" for line in summary.commands(paths).splitlines())
    create_markdown_artifact(f"Open the details with\n\n{links}\n", key="links", description="Where to look")
