"""One night at a time in a workspace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.paths import Paths
from tasks.scheduling import lock

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from tasks.scheduling import lock\n"
    "from tasks.paths import Paths\n"
    "with lock.held(Paths(Path(sys.argv[1]))):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


def test_a_second_night_is_refused_and_a_killed_one_leaves_nothing(tmp_path: Path) -> None:
    """The refusal names the process that holds the lock; once it is killed, outright, the next has it at once."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        said = rf"another night is at work \(process {holder.pid}, since 20\d\d-.*\); wait until it has ended"
        for _ in range(2):  # asking does not wipe out who holds it
            with pytest.raises(lock.AnotherNightError, match=said), lock.held(Paths(tmp_path)):
                pytest.fail("two at once")
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    with lock.held(Paths(tmp_path)):
        pass


def test_who_holds_it_may_ask_again(tmp_path: Path) -> None:
    """The command holds it around the flow; it is free when the outer one ends, and after an error too."""
    again = [sys.executable, "-c", HOLD.replace("time.sleep(60)", "pass"), str(tmp_path)]

    def others() -> int:
        return subprocess.run(again, capture_output=True).returncode

    with lock.held(Paths(tmp_path)):
        with lock.held(Paths(tmp_path)):
            pass
        assert others() != 0
    assert others() == 0
    with pytest.raises(ZeroDivisionError), lock.held(Paths(tmp_path)):
        raise ZeroDivisionError
    assert others() == 0
