"""The subcommands of `nightjar`, a module per group; each adds its own and imports what it needs when it is called."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Protocol


class Add(Protocol):
    """Adds a subcommand to the command line and returns its parser.

    Args:
        name: what people type.
        command: called with the options and the workspace; returns an exit code, or None for 0.
        text: what it does, in a few words.
        heavy: whether it trains, so that the process is started again under the tuned allocator.
    """

    def __call__(self, name: str, command: object, text: str, heavy: bool = False) -> argparse.ArgumentParser: ...


def say(lines: Iterable[str]) -> None:
    """Prints lines at once, also into a pipe."""
    for line in lines:
        print(line, flush=True)


def seed(text: str) -> int:
    """An argument that seeds something."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no seed; give a whole number from 0 on")
    return int(text)


def count(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number; give a whole number from 1 on")
    return int(text)
