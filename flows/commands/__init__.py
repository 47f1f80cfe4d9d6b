"""The subcommands of `nightjar`, a module per group; each adds its own and imports what it needs when it is called."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tasks.terminal import visible

if TYPE_CHECKING:
    from rlhf.records import Sampling


class Add(Protocol):
    """Adds a subcommand to the command line and returns its parser.

    Args:
        name: what people type.
        command: called with the options and the workspace; returns an exit code, or None for 0.
        text: what it does, in a few words.
        heavy: whether it trains, so that the process is started again under the tuned allocator.
    """

    def __call__(self, name: str, command: object, text: str, heavy: bool = False) -> argparse.ArgumentParser: ...


def say(*lines: str) -> None:
    """Prints lines at once, also into a pipe; what would steer a terminal is shown."""
    for line in lines:
        print(visible(line), flush=True)


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an argument that is a whole number."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is no whole number from {least} on")
        return int(text)

    return read


CONTROLS: dict[str, tuple[Callable[[str], float], str]] = {
    "temperature": (float, "0 takes the likeliest token each time (default: 1)"),
    "top-k": (int, "keep the K likeliest tokens"),
    "top-p": (float, "keep the likeliest tokens that together hold P"),
    "min-p": (float, "keep tokens at least this share as likely as the likeliest"),
    "repetition-penalty": (float, "above 1, tokens of the text so far become less likely"),
    "min-new-tokens": (int, "no end of text before so many"),
    "max-new-tokens": (int, "an answer ends here at the latest (default: 64)"),
}


def add_controls(parser: argparse.ArgumentParser, *without: str) -> None:
    """Adds the sampler's controls, and the seed of what is sampled."""
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of what is sampled (default: 0)")
    for name, (kind, text) in CONTROLS.items():
        if name not in without:
            parser.add_argument(f"--{name}", type=kind, metavar="X", default=argparse.SUPPRESS, help=text)


def controls_of(options: argparse.Namespace, **others: int) -> Sampling:
    """The controls that were given, as checked; raises ValueError for one that is out of range."""
    from rlhf.records import Sampling
    from tasks.files import as_record

    given = {name: value for name, value in vars(options).items() if name in Sampling.model_fields}
    return as_record({**given, **others}, Sampling, "controls")
