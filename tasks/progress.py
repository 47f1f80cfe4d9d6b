"""Progress of long work: a bar for people, and every step's figures to whoever listens (the tracker).

What a stage has to say is printed, and handed to whoever hears (the night, which logs it).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm import tqdm

from tasks import deadline
from tasks.terminal import visible

Listener = Callable[[int, dict[str, float]], None]
Hearer = Callable[[int, str], None]
"""Called with a level of `logging` and a line."""
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_hearer: ContextVar[Hearer | None] = ContextVar("hearer", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """While open, `follow` hands every step's figures to `listener(step, figures)`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def hearing(hearer: Hearer) -> Iterator[None]:
    """While open, what is said and warned of also goes to `hearer(level, line)`."""
    token = _hearer.set(hearer)
    try:
        yield
    finally:
        _hearer.reset(token)


def say(text: str) -> None:
    """Prints a line above the bar, if there is one."""
    tqdm.write(visible(text))
    _hand_on(logging.INFO, text)


def warn(text: str) -> None:
    """Prints a line about what ends nothing, and should be looked at, on standard error.

    Libraries set up `logging` as they like, and a logger that one of them silences would swallow it.
    """
    tqdm.write(visible(f"warning: {text}"), file=sys.stderr)
    _hand_on(logging.WARNING, text)


def _hand_on(level: int, text: str) -> None:
    if (hearer := _hearer.get()) is not None:
        hearer(level, visible(text))


def say_of(title: str, text: str) -> None:
    """Prints a line about one training."""
    say(f"{title}: {text}")


def follow(
    steps: Iterable[dict[str, float]],
    title: str,
    total: int,
    show: Iterable[str] = (),
    save: Callable[[], None] | None = None,
) -> list[dict[str, float]]:
    """Runs through an iterable of training steps and returns their rows, each opened by its `step`.

    After the step in which the night's deadline passed it saves and raises, unless that step was the last.

    Args:
        steps: one dict of figures per step; the work is done while they are consumed.
        title: shown before the bar.
        total: number of steps expected.
        show: figures shown beside the bar.
        save: writes what another night can resume from.

    Raises:
        DeadlineError: the night's time is up.
    """
    listener, rows, shown = _listener.get(), [], tuple(show)
    with tqdm(steps, desc=title, total=total, mininterval=1.0) as bar:
        for step, figures in enumerate(bar, 1):
            rows.append({"step": step, **figures})
            bar.set_postfix({name: f"{figures[name]:.3g}" for name in shown if name in figures}, refresh=False)
            if listener is not None:
                listener(step, figures)
            if step < total and deadline.has_passed():
                if save is not None:
                    save()
                deadline.check(f"at step {step} of {total} of {title}")
    return rows
