"""A night's deadline: an instant that long work checks between two steps; no step is interrupted."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "NIGHTJAR_DEADLINE"
"""The instant in seconds since the epoch: in the environment, so that a stage in a subprocess keeps it too."""


class DeadlineError(Exception):
    """The night's time is up; what the next one can resume from is saved."""


@contextmanager
def within(minutes: float | None) -> Iterator[None]:
    """While open, `check` raises once so many minutes have passed; None sets no deadline."""
    if minutes is None:
        yield
        return
    os.environ[VARIABLE] = str(time.time() + 60.0 * minutes)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)


def has_passed() -> bool:
    """Whether there is a deadline and it has passed."""
    instant = os.environ.get(VARIABLE)
    return instant is not None and time.time() >= float(instant)


def check(where: str) -> None:
    """Raises DeadlineError, which names the step that was reached, once the deadline has passed."""
    if has_passed():
        raise DeadlineError(f"night.deadline_minutes is over {where}; the next night resumes there")
