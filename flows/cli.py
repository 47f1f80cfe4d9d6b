"""The `nightjar` command; its subcommands are in flows.commands."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from flows.commands import comparison, erasure, inspection, registry, reproducibility, scheduling, setup
from tasks import environment, terminal, user_errors

GROUPS = (scheduling, setup, inspection, registry, reproducibility, comparison, erasure)

UNREAD = 141
"""The exit code of what SIGPIPE ends, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    0 is done, 1 an error of the user's, 2 misuse (from argparse), 130 an interruption, 141 output that nobody reads.
    """
    options = parser().parse_args(arguments)
    # SIGTERM ends a command in the same order as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.heavy:
            environment.restart_tuned()
        environment.prepare()
        environment.ignore_warnings()
        code = int(options.command(options, workspace()) or 0)
        return UNREAD if terminal.reader_is_gone() else code
    except KeyboardInterrupt:
        print(
            "\nnightjar: stopped; finished stages are kept, so the next run resumes from here",
            file=sys.stderr,
        )
        return 130
    except user_errors.USER_ERRORS as error:
        if isinstance(error, BrokenPipeError) and terminal.reader_is_gone():
            return UNREAD
        message = user_errors.message_of(error)
        if message is None or options.debug or os.environ.get("NIGHTJAR_DEBUG"):
            raise
        print(terminal.visible(f"nightjar: {message}"), file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """The command line; `nightjar COMMAND --help` explains each part."""
    top = argparse.ArgumentParser(
        prog="nightjar", description="Learn from what people preferred, and promote only what is better."
    )
    top.add_argument("--debug", action="store_true", help="show the traceback of every error")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: object, text: str, heavy: bool = False) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(command=command, heavy=heavy)
        return made

    for group in GROUPS:
        group.add_commands(add)
    return top


def workspace() -> Path:
    """The folder to work in: this one, or the first above it that holds a dvc.yaml."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "dvc.yaml").is_file()), here)


if __name__ == "__main__":
    sys.exit(main())
