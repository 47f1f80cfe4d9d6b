"""The set-up: params, presets, and the graph that DVC reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.commands import Add, say
from rlhf.algorithms import unread
from tasks import presets
from tasks.trials.candidates import read_checked
from tasks.versioning.provenance import flatten


def add_commands(add: Add) -> None:
    """Adds preset, params and graph."""
    preset = add("preset", _preset, "copy a preset over params.yaml, or list the presets")
    preset.add_argument("name", nargs="?", metavar="NAME")
    add("params", _params, "check params.yaml and print every param with its value")
    graph = add("graph", _graph, "draw dvc.yaml from the table of stages and the code's imports")
    graph.add_argument("--write", action="store_true", help="write dvc.yaml instead of printing it")
    graph.add_argument("--check", action="store_true", help="only say whether dvc.yaml is as drawn")


def _preset(options: argparse.Namespace, root: Path) -> None:
    if options.name:
        say(*presets.apply_preset(root, options.name))
    else:
        say(*presets.preset_names(root))


def _params(options: argparse.Namespace, root: Path) -> None:
    params = read_checked(root / "params.yaml")
    algorithm = params.policy.algorithm
    idle = tuple(f"policy.{name}." for name in unread(algorithm))
    for name, settings in params.model_dump(mode="json", by_alias=True).items():
        for key, value in flatten(settings, name).items():
            note = f"    # {algorithm} does not read it" if f"{key}.".startswith(idle) else ""
            say(f"{key} = {value}{note}")


def _graph(options: argparse.Namespace, root: Path) -> int:
    from tasks import graph

    drawn, file = graph.render(root), root / "dvc.yaml"
    same = file.is_file() and file.read_text(encoding="utf-8") == drawn
    if options.write:
        graph.write(root)
    elif not options.check:
        print(drawn, end="")
        return 0
    if options.check and not same:
        raise ValueError(f"{file}: not as drawn from the stages and the code; update it with: nightjar graph --write")
    print(f"{file.name} {'is' if same else 'was not'} up to date")
    return 0
