"""`python -m tasks <stage>`: what dvc.yaml runs, one stage, tracked, without asking whether it is due."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tasks import environment


def main(arguments: list[str]) -> int:
    """Runs the stage; 1 for an error of the user's, 2 for misuse. NIGHTJAR_DEBUG=1 shows tracebacks."""
    from tasks.stages import STAGES

    if len(arguments) != 1 or arguments[0] not in STAGES:
        print(f"usage: python -m tasks {{{','.join(STAGES)}}}", file=sys.stderr)
        return 2
    environment.restart_tuned()
    environment.prepare()
    environment.hush()
    from tasks.params.whole import read_params
    from tasks.paths import Paths
    from tasks.runner import run_tracked

    root = Path.cwd()
    # `dvc exp run --temp` and `--queue` work in a copy that is thrown away; DVC says whose.
    home = Path(os.environ.get("DVC_ROOT", root))
    try:
        run_tracked(arguments[0], Paths(root, home), read_params(root / "params.yaml"), door="dvc")
    except (ValueError, FileNotFoundError, ConnectionError) as error:
        if os.environ.get("NIGHTJAR_DEBUG"):
            raise
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
