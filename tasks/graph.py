"""dvc.yaml, drawn from the table of stages and from the code that each stage imports.

A stage's code is its import closure within the project, imports inside functions included: whoever
edits one of those lines gets the stage run again. The command is `nightjar graph`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tasks.files import write_text
from tasks.reports import plots
from tasks.stages import STAGES, VERSIONED, Stage, sections

LAYERS = ("rlhf", "tasks", "flows")
OBSERVERS = ("tasks.progress", "tasks.deadline", "tasks.training.bad_batches")
"""Modules that watch a stage, or say when it runs, and do not shape its outputs: no reason to run it again."""
HEADER = "# Drawn from tasks/stages.py and the code's imports; after a change there: nightjar graph --write\n"


def imports(root: Path, module: str) -> set[str]:
    """The project's modules that this one imports anywhere in its text, their packages included."""
    tree = ast.parse(file_of(root, module).read_text(encoding="utf-8"))
    package = module if file_of(root, module).name == "__init__.py" else module.rpartition(".")[0]
    modules: set[str] = set()
    for name in _imported_names(tree, package):
        parts = name.split(".")
        ancestors = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
        modules.update(name for name in ancestors if parts[0] in LAYERS and _exists(root, name))
    return modules - {module}


def _imported_names(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                base = f"{parent}.{base}".rstrip(".")
            # `from rlhf import ppo` may name a module or a function: both are tried.
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def closure(root: Path, module: str, without: tuple[str, ...] = OBSERVERS) -> list[str]:
    """The files behind `module`: its own, and those of all that it imports from this project."""
    seen: set[str] = set()
    waiting = {module, module.rpartition(".")[0]} - {""}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= imports(root, name) - seen - set(without)
    return sorted(file_of(root, name).relative_to(root).as_posix() for name in seen)


def file_of(root: Path, module: str) -> Path:
    """The file of a module or a package."""
    path = root.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _exists(root: Path, module: str) -> bool:
    return file_of(root, module).is_file()


def code_of(root: Path, stage: str) -> list[str]:
    """The project files that shape a stage's outputs; the defaults of its params are among them."""
    return sorted({*closure(root, f"tasks.{stage}"), *STAGES[stage].code})


def render(root: Path) -> str:
    """The whole text of dvc.yaml.

    Raises:
        FileNotFoundError: a stage has no module yet.
    """
    blocks = []
    for name in VERSIONED:
        if not _exists(root, f"tasks.{name}"):
            raise FileNotFoundError(f"tasks/{name}.py: no such file; every stage is a module of its own")
        blocks.append(_block(name, STAGES[name], code_of(root, name)))
    return HEADER + "stages:\n" + "\n".join(blocks) + "\n" + plots.render()


def write(root: Path) -> None:
    """Writes dvc.yaml as `render` draws it."""
    write_text(root / "dvc.yaml", render(root))


def _block(name: str, stage: Stage, code: list[str]) -> str:
    lines = [f"  {name}:", f"    cmd: python -m tasks {name}"]
    lines += ["    deps:", *(f"      - {path}" for path in (*stage.reads, *code))]
    if given := sections(name):
        lines += ["    params:", *(f"      - {section}" for section in given)]
    lines += ["    outs:", *(f"      - {path}" for path in stage.writes)]
    lines += ["    metrics:", f"      - data/metrics/{name}.json:", "          cache: false"]
    if stage.curves:  # as plots, though each file is drawn then: DVC keeps no run that has plain outputs uncached
        lines += ["    plots:", f"      - data/plots/{name}:", "          cache: false"]
    return "\n".join(lines) + "\n"
