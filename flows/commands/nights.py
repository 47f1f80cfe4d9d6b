"""Nights: run one whole, bring one stage up to date, say what is due."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.commands import Add, say
from tasks import environment, presets, stages
from tasks.params import read_params
from tasks.paths import Paths


def add_commands(add: Add) -> None:
    """Adds run, stage and status."""
    run = add("run", _run, "run the whole night; what is up to date is not run again", heavy=True)
    run.add_argument("--preset", metavar="NAME", help="first make this preset the params (see: nightjar preset)")
    run.add_argument("--data", metavar="FOLDER", type=Path, help="first copy what the params name from here")
    stage = add("stage", _stage, "bring one stage up to date", heavy=True)
    stage.add_argument("name", choices=list(stages.STAGES), metavar="NAME", help=", ".join(stages.STAGES))
    add("status", _status, "say which stages a night would run")


def _run(options: argparse.Namespace, root: Path) -> None:
    paths = Paths(root)
    if options.preset:
        say(presets.apply_preset(root, options.preset))
    params = read_params(root / "params.yaml")
    if options.data:
        copied = presets.bring(paths, params, options.data)
        say([f"copied {name}" for name in copied] or [f"{options.data}: nothing new"])
    presets.check_needed(paths, params)
    from tasks import runner

    if runner.pending(paths, params):
        environment.house_prefect(paths.nights / "prefect")
        from flows.night import night

        night(str(root), presets.which_preset(root, root / "params.yaml"))
    else:
        print("everything is up to date")
    _print_summary(paths)


def _print_summary(paths: Paths) -> None:
    from tasks import summary

    print(f"\n{summary.summary(paths)}\n\n{summary.commands(paths)}")


def _stage(options: argparse.Namespace, root: Path) -> None:
    params = read_params(root / "params.yaml")
    presets.check_needed(Paths(root), params)
    from tasks import runner

    print(f"{options.name}: {runner.bring_up_to_date(options.name, Paths(root), params).status}")


def _status(options: argparse.Namespace, root: Path) -> None:
    params = read_params(root / "params.yaml")
    from tasks import runner

    due = runner.pending(Paths(root), params)
    for name in stages.STAGES:
        print(f"{name:<9} {'due' if name in due else 'up to date'}")
    print(f"\n{'run the night with: nightjar run' if due else 'everything is up to date'}")
