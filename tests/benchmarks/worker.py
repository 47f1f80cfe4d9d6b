"""A contender's own process: prepares, then does one repetition whenever it is told `go`.

`python -m tests.benchmarks.worker JOB` takes the job as JSON. It answers on its standard output, a JSON object a line:
`{"ready": ...}`, then wall and CPU seconds of each repetition, and after any other word its peak memory.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TextIO

from tests.benchmarks.shapes import Work


class Stopped(Exception):  # noqa: N818
    """There is no further turn."""


@dataclass(frozen=True)
class Job:
    """What a worker is to do.

    Attributes:
        subject: `module:function`; called with the job and its turns, it repeats its work until these stop.
        work: how much.
        folder: of the model.
        options: of the subject.
        threads: of torch.
        device, dtype: where it runs, and the type of its products.
    """

    subject: str
    work: Work
    folder: str
    options: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    device: str = "cpu"
    dtype: str = "float32"


@dataclass
class Turns:
    """The clock between two calls, and the conversation with who waits for it."""

    requests: TextIO
    replies: TextIO
    begun: tuple[float, float] | None = None
    warm: bool = False

    def __call__(self, **figures: float) -> None:
        """Ends the repetition that runs, if one does, and waits for the next.

        Raises:
            Stopped: there is none.
        """
        _synchronize()
        if self.begun is None:
            self.say(ready=True, start_mb=_peak_mb())
        else:
            wall, cpu = time.perf_counter() - self.begun[0], time.process_time() - self.begun[1]
            self.say(wall=wall, cpu=cpu, figures=figures)
            if not self.warm:
                self.warm = True
                forget_peak()
        if self.requests.readline().strip() != "go":
            raise Stopped
        self.begun = time.perf_counter(), time.process_time()

    def say(self, **reply: object) -> None:
        """Answers with one line."""
        print(json.dumps(reply), file=self.replies, flush=True)


def main() -> None:
    """Runs the subject of the job in the arguments until it is told to stop."""
    import torch

    fields = json.loads(sys.argv[1])
    job = Job(**{**fields, "work": Work(**fields["work"])})
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    torch.set_num_threads(job.threads)
    module, function = job.subject.split(":")
    turns = Turns(sys.stdin, replies)
    try:
        getattr(import_module(f"tests.benchmarks.{module}"), function)(job, turns)
    except Stopped:
        turns.say(peak_mb=_peak_mb())


def _synchronize() -> None:
    torch = sys.modules["torch"]
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def forget_peak() -> None:
    """What a GPU held to warm up is no part of a repetition's memory; a process's own peak cannot be forgotten."""
    torch = sys.modules["torch"]
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def _peak_mb() -> float:
    torch = sys.modules["torch"]
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
