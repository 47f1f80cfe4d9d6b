"""`prefect server start` that ends with the process which started it: `python -m flows.server --host HOST --port PORT`.

Its standard input is a pipe that the starter keeps open and writes nothing to. However the starter ends, be it killed,
the system closes the pipe.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from tasks import environment


def _end_with_the_starter() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    environment.prepare()
    threading.Thread(target=_end_with_the_starter, daemon=True).start()
    from prefect.cli import app

    sys.argv[1:1] = ["server", "start"]
    app()
