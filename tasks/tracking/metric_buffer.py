"""The figures of training steps on their way to the tracker, a batch at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

FLUSH_EVERY_S = 2.0
Point = tuple[str, float, int]
"""Name, value, step."""


class MetricBuffer:
    """Collects the figures of steps and sends them every few seconds, for one by one they cost 8 ms each.

    A stage may train more than once: when the steps begin anew, the figures go to `train2/`, then `train3/`.
    """

    def __init__(self, send: Callable[[list[Point]], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._send, self._clock, self._sent = send, clock, clock()
        self._points: list[Point] = []
        self._last_step, self._round = 0, 1

    def __call__(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes one step's figures; a listener of tasks.progress."""
        self._round += step <= self._last_step
        self._last_step = step
        group = "train" if self._round == 1 else f"train{self._round}"
        self._points += [(f"{group}/{name}", float(value), step) for name, value in figures.items()]
        if self._clock() - self._sent >= FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Sends what was collected."""
        points, self._points = self._points, []
        if points:
            self._send(points)
        self._sent = self._clock()
