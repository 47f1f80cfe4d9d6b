"""Texts for people: what would steer a terminal is shown, never sent; imports nothing heavy."""

from __future__ import annotations

import os
import re
import select
import sys
from contextlib import suppress

STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 (ECMA-48) but tab and line end, DEL, what turns the direction of the text behind it (Unicode's embeddings,
overrides and isolates), and halves of a surrogate pair, which no terminal can be sent."""


def visible(text: str) -> str:
    r"""The text with control characters as escapes: ESC as `\x1b`, a carriage return as `\r`."""
    return STEERING.sub(lambda match: match.group().encode("unicode_escape").decode(), text)


def reader_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more; what is printed from then on goes nowhere."""
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    with suppress(OSError, AttributeError):  # no file of the system's, or a system without poll
        pipe, poll = sys.stdout.fileno(), select.poll()
        poll.register(pipe, 0)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            # Python flushes once more at its end, and would say that it could not.
            os.dup2(os.open(os.devnull, os.O_WRONLY), pipe)
            return True
    return False
