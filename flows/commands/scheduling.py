"""Nights: run one, schedule them, show their state."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path

from flows.commands import Add, say
from tasks import environment, presets, stages
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.scheduling import diary, lock
from tasks.trials import standings
from tasks.trials.candidates import read_checked


def add_commands(add: Add) -> None:
    """Adds run, stage, serve, up and status."""
    run = add("run", _run, "run the whole night; what is up to date is not run again", heavy=True)
    run.add_argument("--preset", metavar="NAME", help="first make this preset the params (see: nightjar preset)")
    run.add_argument("--data", metavar="FOLDER", type=Path, help="first copy what the params name from here")
    stage = add("stage", _stage, "bring one stage up to date", heavy=True)
    stage.add_argument("name", choices=list(stages.STAGES), metavar="NAME", help=", ".join(stages.STAGES))
    add("serve", _serve, "run a night at the times of params.yaml, until it is interrupted")
    add("up", _up, "bring up Prefect's UI, MLflow's UI and the schedule on this machine, until it is interrupted")
    add("status", _status, "show the last nights, the champion, the next night and what it would do")


def _run(options: argparse.Namespace, root: Path) -> None:
    paths = Paths(root)
    if options.preset:
        say(*presets.apply_preset(root, options.preset))
    if options.data:
        copied = presets.copy_data(paths, read_checked(root / "params.yaml"), options.data)
        say(*[f"copied {name}" for name in copied] or [f"{options.data}: nothing new"])
    run_night(paths)


def run_night(paths: Paths) -> None:
    """Runs a night of params.yaml here, and prints what came of it."""
    params = read_checked(paths.root / "params.yaml")
    presets.check_needed(paths, params)
    stages.check_sections(params)
    with lock.held(paths):
        done = _night(paths, params)
    if "register" in done:
        _print_summary(standings.chosen(paths, params)[0])


def _night(paths: Paths, params: Params) -> dict[str, str]:
    """The night, or without Prefect the few lines that it is when nothing is due."""
    from tasks import runner

    if runner.pending(paths, params):
        from flows import up

        with up.prefect_server(paths, say, environment.importing_ahead()):
            from flows.night import night

            return dict(night(str(paths.root)))
    with diary.opened(paths, params, datetime.now().astimezone(), say) as entry:
        entry.end("nothing new", diary.nothing_new(paths))
    return dict.fromkeys(stages.STAGES, "cached")


def _print_summary(paths: Paths) -> None:
    from tasks.reports import summary

    say(f"\n{summary.summary(paths)}\n\n{summary.commands(paths)}")


def _stage(options: argparse.Namespace, root: Path) -> None:
    params = read_checked(root / "params.yaml")
    presets.check_needed(Paths(root), params)
    from tasks import runner

    print(f"{options.name}: {runner.update_stage(options.name, Paths(root), params).status}")


def _serve(options: argparse.Namespace, root: Path) -> None:
    paths, params = Paths(root), read_checked(root / "params.yaml")
    stages.check_sections(params)
    from flows import up

    with up.prefect_server(paths, say):
        from flows import schedule

        schedule.serve(paths, params)


def _up(options: argparse.Namespace, root: Path) -> int:
    stages.check_sections(read_checked(root / "params.yaml"))
    from flows import up

    return up.up(Paths(root), say)


def _status(options: argparse.Namespace, root: Path) -> None:
    paths, params = Paths(root), read_checked(root / "params.yaml")
    from rich.console import Console

    from flows import times
    from tasks.scheduling import status

    if (nights := status.nights(paths, params.night.timezone)) is not None:
        Console(highlight=False).print(nights)
    due = times.next_night(params.night, datetime.now().astimezone())
    say(f"champion:   {status.champion(paths, params.register_.name)}")
    say(f"next night: {due}, while nightjar serve or up runs")
    say(f"it would:   {_plan(paths, params)}")


def _plan(paths: Paths, params: Params) -> str:
    """What a night would do now."""
    if busy := lock.holder(paths):
        return f"be refused; {busy}"
    from tasks import runner

    due = runner.pending(paths, params)
    return f"bring up to date {', '.join(due)}" if due else diary.nothing_new(paths)
