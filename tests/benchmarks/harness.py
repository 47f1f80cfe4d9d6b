"""The race: contenders in processes of their own, one repetition at a time in turn, while nothing else runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.shapes import Work
from tests.benchmarks.worker import Job

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / ".bench"


def model_of(work: Work, folder: Path) -> str:
    """The folder of the model that some work is done on; written, in a process of its own, where it is missing."""
    path = folder / f"{work.shape}-{work.stop}"
    if not path.is_dir():
        command = [sys.executable, "-m", "tests.benchmarks.models", work.shape, str(work.stop), str(path)]
        subprocess.run(command, cwd=ROOT, check=True)
    return str(path)


@dataclass
class Runs:
    """What a contender took.

    Attributes:
        wall, cpu: seconds of each repetition.
        figures: what it said of each.
        start_mb, peak_mb: memory before the first repetition and at its highest, imports included.
        error: why it is out of the race, or empty.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)
    start_mb: float = 0.0
    peak_mb: float = 0.0
    error: str = ""


class Contender:
    """A worker process, started at once and waited for later.

    Args:
        job: what it does.
        peer: folder below `.bench` that the peer was installed in; None has what the project has.
        environment: variables over this process's own.
    """

    def __init__(self, job: Job, peer: str | None = None, environment: Mapping[str, str] | None = None) -> None:
        paths = [str(ROOT), *([str(PEERS / peer)] if peer else []), os.environ.get("PYTHONPATH", "")]
        threads = str(job.threads)
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            **(environment or {}),
        }
        self.name = job.subject
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.worker", json.dumps(asdict(job))],
            cwd=ROOT,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def hear(self) -> dict[str, Any]:
        """Waits for its next answer.

        Raises:
            RuntimeError: it ended instead; the message holds the end of what it printed.
        """
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.name} ended early:\n{self.errors.read()[-2_000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, word: str) -> dict[str, Any]:
        """Says a word and waits for the answer."""
        print(word, file=self.process.stdin, flush=True)
        return self.hear()

    def close(self) -> None:
        """Ends the process, if it still runs."""
        self.process.kill()
        self.process.wait()
        self.errors.close()


def race(contenders: Sequence[Contender], repetitions: int) -> list[Runs]:
    """Lets each contender warm up with one repetition, then all take turns; they are ended in any case.

    One that fails is out, and the others go on without it.
    """
    runs = [Runs() for _ in contenders]
    turns: list[Callable[[Contender, Runs], None]] = [_hear, _warm_up, *[_repeat] * repetitions, _stop]
    try:
        for turn in turns:
            for contender, run in zip(contenders, runs, strict=True):
                if not run.error:
                    try:
                        turn(contender, run)
                    except (RuntimeError, BrokenPipeError) as error:
                        run.error = str(error)
                        contender.close()
    finally:
        for contender, run in zip(contenders, runs, strict=True):
            if not run.error:
                contender.close()
    return runs


def _hear(contender: Contender, run: Runs) -> None:
    run.start_mb = contender.hear()["start_mb"]


def _warm_up(contender: Contender, run: Runs) -> None:
    contender.ask("go")


def _repeat(contender: Contender, run: Runs) -> None:
    answer = contender.ask("go")
    run.wall.append(answer["wall"])
    run.cpu.append(answer["cpu"])
    run.figures.append(answer["figures"])


def _stop(contender: Contender, run: Runs) -> None:
    run.peak_mb = contender.ask("stop")["peak_mb"]
