"""Notifies people how a night ended: by their shell command, with the night as JSON on its standard input."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tasks.params.night import NightParams
from tasks.scheduling.history import Night

TIMEOUT_S = 60.0


def notify(night: Night, params: NightParams, root: Path) -> str | None:
    """Runs `night.notify` in the workspace if `night.notify_on` asks for it.

    Returns:
        What went wrong with the command, which is never the night's own failure; None when nothing did.
    """
    if params.notify is None or night.outcome not in params.notify_on:
        return None
    try:
        done = subprocess.run(
            params.notify,
            shell=True,
            cwd=root,
            env={**os.environ, "NIGHTJAR_OUTCOME": night.outcome},
            input=night.model_dump_json() + "\n",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"night.notify: {error}"
    if done.returncode:
        return f"night.notify ended with {done.returncode}: {(done.stderr or done.stdout).strip()[-500:]}"
    return None
