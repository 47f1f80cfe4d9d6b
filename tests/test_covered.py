"""tests/covered.py in a project made for it, measured as `make test` measures this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = "a = 1\n" + "a += 1\n" * 16 + "{}" + "if a < 0:\n    a = 0\n"
NIGHT = """\
import subprocess, sys
import tasks
subprocess.run([sys.executable, "-c", "import rlhf"], cwd=sys.argv[1], check=True)
"""


@pytest.mark.parametrize(
    ("more", "status", "rlhf"), [("", 1, "94.7 % of lines run by the tests, below 95 %"),
                                 ("a += 1\n", 0, "95.0 % of lines run by the tests, at least 95 %")],
)  # fmt: skip
def test_a_layer_is_held_to_its_floor(tmp_path: Path, repository: Path, more: str, status: int, rlhf: str) -> None:
    """Of 19 lines 18 are run, of 20 lines 19: .947 and .95; a subprocess in another folder is measured too."""
    for layer in ("flows", "tasks", "rlhf"):
        (tmp_path / layer).mkdir()
        (tmp_path / layer / "__init__.py").write_text(MODULE.format(more) if layer != "flows" else "")
    (tmp_path / "night.py").write_text(NIGHT)
    (tmp_path / "elsewhere").mkdir()
    shutil.copyfile(repository / "pyproject.toml", tmp_path / "pyproject.toml")

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        environment["PYTHONPATH"] = str(tmp_path)
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    ran = python("-m", "coverage", "run", "night.py", "elsewhere")
    assert ran.returncode == 0, ran.stderr
    for _ in range(2):  # reading keeps what was measured
        done = python(str(repository / "tests" / "covered.py"))
        assert done.stdout.splitlines()[1:] == [
            f"tasks   {rlhf[:4]} % of lines run by the tests, at least 90 %",
            f"rlhf    {rlhf}",
        ]
        assert (done.returncode, done.stderr) == (status, "")
