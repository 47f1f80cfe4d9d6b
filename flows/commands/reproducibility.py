"""Reproducing: run what made a registered policy again, from scratch, and say whether the same came out."""

from __future__ import annotations

import argparse
from pathlib import Path

from flows.commands import Add, say
from tasks import stages
from tasks.params.whole import read_params
from tasks.paths import Paths


def add_commands(add: Add) -> None:
    """Adds reproduce."""
    reproduce = add("reproduce", _reproduce, "run again, from scratch, what made a policy, and compare every output")
    reproduce.add_argument(
        "which",
        nargs="?",
        default="champion",
        metavar="VERSION|champion|NIGHT",
        help="a policy version, champion, or a night's experiment (dvc exp list) or how it begins (default: champion)",
    )
    reproduce.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="work in this folder, which stays (default: a temporary one)"
    )
    reproduce.add_argument("--until", choices=stages.VERSIONED, metavar="STAGE", help="the last stage to run")


def _reproduce(options: argparse.Namespace, root: Path) -> int:
    from tasks.reproducibility import experiments, reproduce

    paths = Paths(root)
    experiment, libraries = experiments.find(paths, read_params(root / "params.yaml"), options.which)
    say(f"{experiment.name}, commit {experiment.commit[:8]}")
    if others := reproduce.other_versions(libraries):
        say(f"other versions than then, which may change the last digits: {', '.join(others)}")
    reproduction = reproduce.reproduce(paths, experiment, options.keep, options.until)
    say("", *reproduce.render(reproduction))
    if options.keep:
        say(f"kept in {options.keep}")
    return 1 if reproduction.differences else 0
