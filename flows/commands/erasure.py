"""Forgetting on request: a person's, a prompt's or a row's data, and what learnt from them."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path

from flows.commands import Add, say, scheduling
from tasks.erasure.request import Kind, Request
from tasks.params.whole import read_params
from tasks.paths import Paths
from tasks.scheduling import lock

ASKED: dict[Kind, str] = {
    "annotator": "who ranked, by the field annotator: all rows of theirs",
    "prompt": "a prompt, by its row's id: its text with all demonstrations and rankings of it",
    "row": "one row of data/source or data/feedback, by its id (made ids too: support-12), or as FILE:ID",
}


def add_commands(add: Add) -> None:
    """Adds forget."""
    text = "remove a person's, a prompt's or a row's data, and retire every version that learnt from them"
    forget = add("forget", _forget, text, heavy=True)
    which = forget.add_mutually_exclusive_group(required=True)
    for kind, meaning in ASKED.items():
        which.add_argument(f"--{kind}", metavar="ID", help=meaning)
    forget.add_argument("--why", default="on request", metavar="TEXT", help="is kept in the record, so it names nobody")
    forget.add_argument("--by", metavar="NAME", help="who signs it (default: the user)")
    forget.add_argument("--yes", action="store_true", help="do not ask; without a terminal nothing is done without it")
    forget.add_argument("--retrain", action="store_true", help="run a night at once (default: the next one)")


def _forget(options: argparse.Namespace, root: Path) -> int:
    from tasks.erasure import as_text, forget, planning, sources

    paths, params = Paths(root), read_params(root / "params.yaml")
    [(kind, name)] = [(kind, vars(options)[kind]) for kind in ASKED if vars(options)[kind] is not None]
    with lock.held(paths):
        for file in sources.recover(paths):
            say(f"{file}: set back as it was before a command like this one was cut off; give that one again")
        planned = planning.make(paths, params, Request(kind, name))
        say(*as_text.render(planned), "")
        if not options.yes and not _confirmed():
            raise ValueError("nothing was changed; to go on, answer y, or give --yes")
        left = forget.carry_out(paths, params, planned, options.by or _user(), options.why)
        say("forgotten; the record is in nights/forgotten.jsonl")
        if left:
            raise ValueError("\n".join(["these are left; remove what hinders, and give the command again:", *left]))
        if options.retrain:
            scheduling.run_night(paths)
        else:
            say("the next night trains without them: nightjar run, or when the schedule says so")
    return 0


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        raise ValueError("this user has no name; say with --by who signs the record") from None


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("Go on? This cannot be undone. [y/N] ").strip().lower() in ("y", "yes")
