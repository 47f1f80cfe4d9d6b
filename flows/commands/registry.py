"""What is registered: where a version came from, going back to an earlier champion, and talking to one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from flows.commands import Add, add_controls, controls_of, say
from tasks.params.whole import read_params
from tasks.paths import Paths
from tasks.terminal import visible

VERSION = "a policy version (3 or v3), champion or challenger"


def add_commands(add: Add) -> None:
    """Adds lineage, rollback and chat."""
    lineage = add("lineage", _lineage, "show what a registered policy was made from, by the registry alone")
    lineage.add_argument(
        "version", nargs="?", default="champion", metavar="VERSION", help=f"{VERSION} (default: champion)"
    )
    rollback = add("rollback", _rollback, "make an earlier policy champion again, with its reward model")
    rollback.add_argument("--to", metavar="VERSION", help="which one (default: the champion before this one)")
    rollback.add_argument("--why", default="no reason given", metavar="TEXT", help="is kept with the decision")
    chat = add("chat", _chat, "talk to a registered policy; Ctrl-D ends")
    chat.add_argument("--model", default="champion", metavar="VERSION", help=f"{VERSION} (default: champion)")
    add_controls(chat)


def _lineage(options: argparse.Namespace, root: Path) -> None:
    from tasks.registry import lineage, versions

    name, client = read_params(root / "params.yaml").register_.name, versions.open_existing(Paths(root))
    say(lineage.render(lineage.trace(client, versions.get_policy(client, name, options.version))))


def _rollback(options: argparse.Namespace, root: Path) -> None:
    from tasks.registry import rollback

    name = read_params(root / "params.yaml").register_.name
    done = rollback.roll_back(Paths(root), name, options.to, options.why)
    was = f"version {done.champion_before} was" if done.champion_before is not None else "none was"
    say(f"{name}-policy version {done.version} is champion now; {was}: {done.reason}")


def _chat(options: argparse.Namespace, root: Path) -> None:
    sampling, params = controls_of(options), read_params(root / "params.yaml")

    from rlhf.models import load_policy
    from tasks.inspection.chat import Chat
    from tasks.registry import existing, versions
    from tasks.tracking import mlflow_store

    paths = Paths(root)
    version = versions.usable(versions.get_policy(versions.open_existing(paths), params.register_.name, options.model))
    for line in existing.notices(paths, params.register_.name):
        print(line, file=sys.stderr)
    chat = Chat(load_policy(mlflow_store.checkpoint_of(paths, version), params.model), sampling, options.seed)
    live = sys.stdin.isatty()
    if live:
        say(f"{version.name} version {version.version}; Ctrl-D ends")
    for line in _lines("> " if live else ""):
        try:
            say(chat.answer(line))
        except ValueError as error:
            if not live:
                raise
            print(visible(str(error)), file=sys.stderr)


def _lines(mark: str) -> Iterator[str]:
    """What is typed or piped in, but blank lines."""
    while True:
        try:
            line = input(mark).strip()
        except (EOFError, KeyboardInterrupt):
            print(end="\n" if mark else "")
            return
        if line:
            yield line
