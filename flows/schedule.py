"""The schedule: the night served by Prefect on this machine, at the times of params.yaml, one at a time."""

from __future__ import annotations

import asyncio
import os
import platform
from datetime import datetime
from uuid import UUID

from prefect import serve as serve_deployments
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, StateType
from prefect.deployments.runner import RunnerDeployment
from prefect.schedules import Cron
from prefect.states import Crashed
from prefect.types.entrypoint import EntrypointType

from flows import times
from flows.night import night
from flows.up import SCHEDULED
from tasks import environment
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.scheduling import lock, missed
from tasks.scheduling.notify import notify
from tasks.terminal import visible


def serve(paths: Paths, params: Params) -> None:
    """Waits for nights and runs them, until it is interrupted.

    Prefect's server is that of PREFECT_API_URL. A night that was missed starts at once, or is noted,
    as `night.missed` says.
    """
    deployment = deployment_of(paths, params)
    deployment_id = asyncio.run(deployment.aapply())
    mark_crashed(paths, deployment_id)
    now = datetime.now().astimezone()
    if due := times.first_missed(paths, params.night, now):
        if noted := missed.note(paths, params.night, due, now):
            print(visible(noted.why), flush=True)
            if trouble := notify(noted, params.night, paths.root):
                print(visible(trouble), flush=True)
        if params.night.missed == "catch_up":
            with get_client(sync_client=True) as client:
                client.create_flow_run_from_deployment(deployment_id)
    # The server runs already; from here on only nights are started, which gain from it.
    os.environ.update(environment.allocator_settings(os.environ, platform.libc_ver()[0]))
    print(f"{SCHEDULED}{times.next_night(params.night, now)}", flush=True)
    serve_deployments(deployment, print_starting_message=False)


def mark_crashed(paths: Paths, deployment_id: UUID) -> None:
    """Marks nights as crashed whose process is gone; Prefect takes them for running and would cancel all others."""
    if lock.holder(paths):
        return
    alive = FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=alive)),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id])),
        ):
            client.set_flow_run_state(
                run.id, Crashed(message="its process was gone when the schedule started"), force=True
            )


def deployment_of(paths: Paths, params: Params) -> RunnerDeployment:
    """The night of this workspace as Prefect knows it: a second one while one is at work is cancelled."""
    return RunnerDeployment.from_flow(
        night,
        paths.root.resolve().name,
        schedule=Cron(params.night.cron, timezone=params.night.timezone),
        parameters={"root": str(paths.root.resolve())},
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
