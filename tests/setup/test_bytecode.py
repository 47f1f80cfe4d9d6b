"""setup/bytecode.py on a package and a library made for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = """\
import json
def main():
    import library.late as late, library.listed
    from library import (
        inner,  # with a word on it
        NAME,
    )
"""
LIBRARY = """\
from .star import *
from . import (first,
    second as other)
try:
    import optional.fast
except ImportError:
    fast = None
if TYPE_CHECKING:
    import unused
def later():
    import unused
"""


def compiled(repository: Path, folder: Path, *packages: str) -> tuple[int, str]:
    """Compiles what packages in a folder import; the exit status and what was said."""
    command = [sys.executable, str(repository / "setup" / "bytecode.py"), *packages]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_what_is_imported_is_compiled_and_nothing_else(tmp_path: Path, repository: Path) -> None:
    """All imports of the package named, also in functions; of others those that run when they are imported."""
    files = {
        "ours/__init__.py": "", "ours/commands/__init__.py": "", "ours/commands/run.py": ROOT,
        "library/__init__.py": LIBRARY, "library/late.py": "import .\n", "library/inner/__init__.py": "",
        "library/inner/deep.py": "", "library/star.py": "from ..beyond import it\n", "library/listed.py": "",
        "library/first.py": "", "library/second.py": "", "library/third.py": "",
        "optional/fast.py": "", "unused.py": "",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert compiled(repository, tmp_path, "ours") == (0, "")
    found = {
        f"{path.parent.parent.relative_to(tmp_path)}/{path.name.split('.')[0]}.py" for path in tmp_path.rglob("*.pyc")
    }
    broken, left = {"library/late.py"}, {"library/inner/deep.py", "library/third.py", "./unused.py", "unused.py"}
    assert found == set(files) - broken - left


def test_a_package_that_is_not_there_is_an_error(tmp_path: Path, repository: Path) -> None:
    """Nothing to compile would look like all is compiled."""
    status, said = compiled(repository, tmp_path, "json", "ours")
    assert status == 1
    assert said == f"ours: no package of this name in {tmp_path} or installed\n"
