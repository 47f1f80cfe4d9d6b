"""`python setup/bytecode.py PACKAGE...`: compiles what the packages import, that no first run does it one by one.

An environment holds several times the modules that are ever imported, so imports are followed: in the packages
themselves all of them, in what they import those that run with it, which stand at the start of a line or first in a
`try`. What this misses, Python compiles when it is imported.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from compileall import compile_file
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import cache, partial
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import resolve_name
from pathlib import Path

IMPORT = r"(?:import +([\w., ]+)|from +([\w.]+) +import +(\([^)]*\)|.*))"
ANYWHERE = re.compile(r"^ *" + IMPORT, re.MULTILINE)
AT_ONCE = re.compile(r"^(?:try:\n {4})?" + IMPORT, re.MULTILINE)


@cache
def find(module: str) -> ModuleSpec | None:
    """Where a module lies; None for what is not installed. Nothing is imported for it."""
    parent = module.rpartition(".")[0]
    package = find(parent) if parent else None
    if parent and (package is None or not package.submodule_search_locations):
        return None
    with suppress(KeyError):  # a folder without __init__.py asks for its parent, which is not imported
        return PathFinder.find_spec(module, package.submodule_search_locations if package else None)
    return None


def imports(text: str, package: str, pattern: re.Pattern[str]) -> Iterator[str]:
    """Modules that a text may import; a name taken from a package may be a module of it or not."""
    for plain, origin, names in pattern.findall(text):
        if plain:
            yield from (name.split()[0] for name in plain.split(",") if name.strip())
            continue
        with suppress(ImportError):  # dots beyond the top: a line of text that only looks like an import
            base = resolve_name(origin, package)
            yield from (base, *(f"{base}.{name}" for name in re.findall(r"\w+", names)))


def closure(packages: list[str]) -> set[str]:
    """The source files of the packages and of what they import, the standard library's left out."""
    files: dict[str, str] = {}
    waiting = list(packages)
    while waiting:
        module = waiting.pop()
        root, parent = module.partition(".")[0], module.rpartition(".")[0]
        if module in files or root in sys.stdlib_module_names:
            continue
        spec = find(module)
        files[module] = (spec and spec.origin) or ""
        waiting += [parent] if parent else []
        if not files[module].endswith(".py"):
            continue
        folders = (spec and spec.submodule_search_locations) or []
        text = Path(files[module]).read_text(encoding="utf-8", errors="ignore")
        waiting += imports(text, module if folders else parent, ANYWHERE if root in packages else AT_ONCE)
        if root in packages:
            waiting += [f"{module}.{path.stem}" for folder in folders for path in Path(folder).glob("*")]
    return {file for file in files.values() if file.endswith(".py")}


if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())
    if missing := [package for package in sys.argv[1:] if find(package) is None]:
        raise SystemExit(f"{', '.join(missing)}: no package of this name in {Path.cwd()} or installed")
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(compile_file, quiet=2), sorted(closure(sys.argv[1:])), chunksize=16))
