"""`python -m tasks <stage>`: what dvc.yaml runs, one stage, tracked, whether or not it is due.

`python -m tasks --candidate ROOT NAME` trains one candidate for the night that started this process.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from tasks import environment, terminal, user_errors

REFUSED, LATE = 65, 75
"""Exit codes of a candidate's process: a stage rejects its settings; the night's deadline is over."""


def main(arguments: list[str]) -> int:
    """Runs the stage; 1 for an error of the user's, 2 for misuse. NIGHTJAR_DEBUG=1 shows tracebacks."""
    from tasks.stages import STAGES

    is_candidate = arguments[:1] == ["--candidate"] and len(arguments) == 3
    if not is_candidate and (len(arguments) != 1 or arguments[0] not in STAGES):
        print(f"usage: python -m tasks {{{','.join(STAGES)}}}", file=sys.stderr)
        return 2
    environment.restart_tuned()
    environment.prepare()
    environment.ignore_warnings()
    return _train(Path(arguments[1]), arguments[2]) if is_candidate else _run(arguments[0])


def _run(stage: str) -> int:
    from tasks.params.whole import read_params
    from tasks.paths import Paths
    from tasks.runner import run_tracked

    root = Path.cwd()
    # `dvc exp run --temp` and `--queue` work in a copy that is thrown away; DVC says whose.
    home = Path(os.environ.get("DVC_ROOT", root))
    try:
        run_tracked(stage, Paths(root, home), read_params(root / "params.yaml"), door="dvc")
    except user_errors.USER_ERRORS as error:
        message = user_errors.message_of(error)
        if message is None or os.environ.get("NIGHTJAR_DEBUG"):
            raise
        print(terminal.visible(f"{stage}: {message}"), file=sys.stderr)
        return 1
    return 0


def _train(root: Path, name: str) -> int:
    """Trains the candidate of this name; the last line on standard error says what is wrong."""
    from tasks import progress
    from tasks.deadline import DeadlineError
    from tasks.paths import Paths
    from tasks.runner import train
    from tasks.trials.candidates import read_candidates
    from tasks.versioning.dvc_repo import BusyError

    candidate = next(row for row in read_candidates(root / "params.yaml") if row.name == name)
    try:
        with progress.hearing(_warn):
            train(Paths(root), candidate, lambda line: print(line, flush=True))
    except BusyError:
        raise
    except (ValueError, DeadlineError) as error:
        print(terminal.visible(" ".join(str(error).splitlines())), file=sys.stderr)
        return LATE if isinstance(error, DeadlineError) else REFUSED
    return 0


def _warn(level: int, line: str) -> None:
    """Prints a warning where the night reads it; of standard error, among bars, it takes only why a candidate ended."""
    if level >= logging.WARNING:
        print(f"warning: {line}", flush=True)


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
