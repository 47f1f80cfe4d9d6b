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
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(repository / "setup" / "bytecode.py"), "ours"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
    compiled = {
        f"{path.parent.parent.relative_to(tmp_path)}/{path.name.split('.')[0]}.py" for path in tmp_path.rglob("*.pyc")
    }
    broken, left = {"library/late.py"}, {"library/inner/deep.py", "library/third.py", "./unused.py", "unused.py"}
    assert compiled == set(files) - broken - left
