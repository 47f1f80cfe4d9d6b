"""The process's surroundings: every tool's telemetry off, the allocator tuned; imports nothing heavy."""

from __future__ import annotations

import atexit
import gc
import os
import platform
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

from tasks.terminal import visible

QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
"""Telemetry off; whoever wants it sets the variable before the start."""

STEADY = {
    # Tokenizers forked after use only warn and fall back to this anyway.
    "TOKENIZERS_PARALLELISM": "false",
    # OpenMP's threads spin while they wait, which on a busy machine starves the one they wait for
    # (a training step took three times as long); asleep they cost microseconds.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Ragged batches have other shapes in every step; oneDNN would keep what it compiled for a thousand of them.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    # Embedded Prefect opens a server of its own, which takes its time on a slow machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    # The command prints its own line per stage; Prefect's lines still go to its database and UI.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}

ALLOCATOR = {
    # A training step frees and allocates the same large blocks again; giving them back to the kernel in between costs
    # page faults that took half of a small step's time. And what is cut off a block to align it must not go to the
    # caches of small blocks: it never joins its neighbours again, and the next large block finds no room between them.
    "GLIBC_TUNABLES": "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=20000000000:glibc.malloc.top_pad=270000000"
    ":glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0",
}
COLLECTION = (50_000, 10, 10)
"""The garbage collector's thresholds: new objects before it looks at the youngest, and how often before older ones."""

TUNED = "NIGHTJAR_ALLOCATOR"
"""Set to `off` by whoever wants glibc's defaults; set to `tuned` once the process has been restarted."""

AHEAD = (
    "mlflow",
    "great_expectations",
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.generation.utils",
    "transformers.models.llama.modeling_llama",
    "rouge_score.rouge_scorer",
    "matplotlib.figure",
)
"""What a night's stages import, in the order in which they do."""


@contextmanager
def importing_ahead() -> Iterator[None]:
    """Imports AHEAD beside what the block waits for, as far as that leaves time.

    When the block ends nothing is imported beside it any more: two threads at one package may see half of it.
    """
    ended = Event()

    def run() -> None:
        for name in AHEAD:
            if not ended.is_set():
                with suppress(ImportError):  # whoever needs it says so
                    import_module(name)

    thread = Thread(target=run, name="import ahead", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def prepare() -> None:
    """Sets the variables of QUIET and STEADY that the user left unset, and has garbage collected less often.

    A traceback is shown without what would steer the terminal: an error's text may quote the data.

    The libraries are a million objects that stay. In a night Python's own settings went through all of them 14 times
    in 2.4 seconds, through the younger ones in 0.6, and once more at the end in 2.5.
    """
    for name, value in {**QUIET, **STEADY}.items():
        os.environ.setdefault(name, value)
    gc.set_threshold(*COLLECTION)
    atexit.register(gc.freeze)
    sys.excepthook = _show_traceback


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    print(visible("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def prepare_prefect_home(fallback: Path) -> None:
    """Makes Prefect's home, which it does not make itself where folders above are missing.

    Where the user's cannot be written, Prefect lives in `fallback` for this process and its children.
    """
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)
        writable = os.access(home, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        fallback.mkdir(parents=True, exist_ok=True)
        os.environ["PREFECT_HOME"] = str(fallback)


def ignore_warnings() -> None:
    """Hides libraries' deprecation warnings, unless python was started with -W."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def restart_tuned() -> None:
    """Starts this very command again under ALLOCATOR, once: glibc reads its settings only at the start.

    Does nothing where the C library is another, or where the user set an allocator variable.
    """
    settings = allocator_settings(os.environ, platform.libc_ver()[0])
    if settings:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **settings})
    if os.environ.get(TUNED) == "tuned":
        # glibc has read them; a child such as the Prefect server is better off without.
        for name in ALLOCATOR:
            os.environ.pop(name, None)


def allocator_settings(environ: Mapping[str, str], libc: str) -> dict[str, str]:
    """What a restart should add to the environment; empty when no restart is due."""
    by_user = [name for name in environ if name in ALLOCATOR or name.startswith("MALLOC_")]
    return {} if libc != "glibc" or TUNED in environ or by_user else {**ALLOCATOR, TUNED: "tuned"}
