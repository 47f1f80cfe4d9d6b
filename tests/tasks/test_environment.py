"""The process's surroundings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks import environment


def test_telemetry_is_off_unless_the_user_turned_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is unset is set to off, what is set stays."""
    for name in environment.QUIET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GX_ANALYTICS_ENABLED", "true")
    environment.prepare()
    found = {name: os.environ[name] for name in environment.QUIET}
    assert found == {**environment.QUIET, "GX_ANALYTICS_ENABLED": "true"}


def test_the_tools_themselves_say_that_telemetry_is_off() -> None:
    """Asked of the libraries, in a process where only `prepare` ran."""
    code = (
        "from tasks import environment; environment.prepare()\n"
        "from dvc.analytics import is_enabled\n"
        "from huggingface_hub import constants\n"
        "from prefect.settings import get_current_settings\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "print(is_enabled(), constants.HF_HUB_DISABLE_TELEMETRY, is_telemetry_disabled(),"
        " get_current_settings().server.analytics_enabled)"
    )
    clean = {name: value for name, value in os.environ.items() if name not in environment.QUIET}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True", "True", "False"]


def test_a_restart_is_due_once_and_only_with_glibc() -> None:
    """Not elsewhere, not after the restart, not against the user's own settings."""
    first = environment.allocator_settings({"HOME": "/"}, "glibc")
    assert first == {**environment.ALLOCATOR, environment.TUNED: "tuned"}
    assert environment.allocator_settings(first, "glibc") == {}
    assert environment.allocator_settings({}, "") == {}
    assert environment.allocator_settings({environment.TUNED: "off"}, "glibc") == {}
    assert environment.allocator_settings({"MALLOC_ARENA_MAX": "1"}, "glibc") == {}
    assert environment.allocator_settings({"GLIBC_TUNABLES": "glibc.malloc.check=1"}, "glibc") == {}


def test_the_restarted_command_is_the_same_and_its_children_are_left_alone() -> None:
    """Arguments and -P survive; glibc's variables are gone from the environment that children inherit."""
    code = (
        "import os, sys; from tasks import environment; environment.restart_tuned()\n"
        "print(sys.argv[1:], sys.flags.safe_path, os.environ.get(environment.TUNED), 'GLIBC_TUNABLES' in os.environ)"
    )
    clean = {
        name: value for name, value in os.environ.items() if name not in (environment.TUNED, *environment.ALLOCATOR)
    }
    command = [sys.executable, "-P", "-c", code, "run", "--seed", "3"]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
    expected = "tuned" if sys.platform == "linux" else "None"
    assert done.stdout.strip() == f"['run', '--seed', '3'] True {expected} False"


def test_prefect_gets_a_home_that_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's is made with the folders above it; where that is impossible, the fallback serves."""
    home, fallback = tmp_path / "some" / "home", tmp_path / "nights" / "prefect"
    monkeypatch.setenv("PREFECT_HOME", str(home))
    environment.prepare_prefect_home(fallback)
    assert (home.is_dir(), fallback.exists()) == (True, False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "file" / "home"))
    environment.prepare_prefect_home(fallback)
    assert os.environ["PREFECT_HOME"] == str(fallback)
    assert fallback.is_dir()


def test_what_stages_import_is_imported_as_far_as_there_is_time() -> None:
    """Past a module that is missing; a block that ends at once waits for the one at work, and no other follows."""
    code = (
        "import sys, time; from tasks import environment\n"
        "environment.AHEAD = ('no_such_module', 'sched', 'this_is_last')\n"
        "with environment.importing_ahead(): time.sleep(0.5)\n"
        "print('sched' in sys.modules)\n"
        "environment.import_module = lambda name: (print(name), time.sleep(0.2), print('done'))\n"
        "with environment.importing_ahead(): time.sleep(0.1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "no_such_module", "done"]
    assert not done.stderr


def test_what_is_imported_ahead_is_there() -> None:
    """Each module by its name, which a new version of a library may have changed."""
    code = f"import importlib\nfor name in {environment.AHEAD}: importlib.import_module(name)"
    subprocess.run([sys.executable, "-c", code], check=True)
