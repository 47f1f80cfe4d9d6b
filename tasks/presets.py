"""Presets: whole params.yaml files for common set-ups, and copying in the data that they name."""

from __future__ import annotations

import filecmp
import shutil
from pathlib import Path
from typing import NamedTuple

from tasks.files import write_text
from tasks.params.whole import Params, read_params
from tasks.paths import Paths


class Needed(NamedTuple):
    """A file or folder that the params name: where it must lie, and its name below the user's folder."""

    path: Path
    name: str


def preset_names(root: Path) -> list[str]:
    """The presets that come with the project."""
    return sorted(path.stem for path in (root / "presets").glob("*.yaml"))


def apply_preset(root: Path, name: str) -> list[str]:
    """Copies a preset over params.yaml, and returns what was done, as messages.

    A params.yaml that somebody edited (one that equals no preset) is kept as params.yaml.bak.

    Raises:
        ValueError: there is no such preset, or it does not hold valid params.
    """
    names = preset_names(root)
    if name not in names:
        raise ValueError(f"{name}: no such preset; the presets are {', '.join(names) or '(none)'}")
    preset = root / "presets" / f"{name}.yaml"
    read_params(preset)
    target, messages = root / "params.yaml", []
    text = preset.read_text(encoding="utf-8")
    if target.is_file() and target.read_text(encoding="utf-8") == text:
        return [f"params.yaml is preset {name} already"]
    if target.is_file() and which_preset(root, target) is None:
        backup = _free_backup(target)
        shutil.copyfile(target, backup)
        messages.append(f"your edited params.yaml is kept as {backup.name}")
    write_text(target, text)
    return [*messages, f"params.yaml is now preset {name}"]


def which_preset(root: Path, path: Path) -> str | None:
    """The preset that this params file equals; None when it is somebody's own."""
    shipped = ((name, root / "presets" / f"{name}.yaml") for name in preset_names(root))
    return next((name for name, preset in shipped if filecmp.cmp(path, preset, shallow=False)), None)


def _free_backup(target: Path) -> Path:
    """params.yaml.bak, or the first numbered one where another edit is kept there already."""
    candidates = [target.with_name(target.name + ".bak")]
    candidates += [target.with_name(f"{target.name}.bak{number}") for number in range(2, 1000)]
    return next(path for path in candidates if not path.exists() or filecmp.cmp(path, target, shallow=False))


def needed(paths: Paths, params: Params) -> list[Needed]:
    """What the params name below data/source and data/feedback."""
    files = []
    for source in (params.ingest.source, params.ingest.general):
        if source is None or source == "builtin" or source.startswith("hub:"):
            continue
        below = Path(source).parts[2:] if source.startswith("data/source/") else (source,)
        files.append(Needed(paths.root / source, Path(*below).as_posix()))
    splits = params.rank.feedback
    for names in (splits.train, splits.dev, splits.test, splits.judge, splits.any):
        files += [Needed(paths.feedback / name, name) for name in names]
    return list(dict.fromkeys(files))


def check_needed(paths: Paths, params: Params) -> None:
    """Raises FileNotFoundError for the first file that the params name and that is not there."""
    for path, name in needed(paths, params):
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: no such file or folder, but params.yaml names it; put it there, "
                f"or copy it in with: nightjar run --data FOLDER (FOLDER holding {name})"
            )


def copy_data(paths: Paths, params: Params, folder: Path) -> list[str]:
    """Copies what the params name from the user's folder to where they name it, and returns the paths copied.

    Files that are the same already stay, and so do all others. Of a source folder its own files are copied; ingest
    reads no folders inside it.

    Raises:
        FileNotFoundError: the folder, or something named, is not there; nothing was copied then.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; give the folder that holds your data")
    wanted = needed(paths, params)
    for _, name in wanted:
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"{folder / name}: no such file or folder, but params.yaml names {name}; "
                "put it there, or choose another folder or preset"
            )
    copied = []
    for target, name in wanted:
        for source, file in _files(folder / name, target):
            if not file.is_file() or not filecmp.cmp(source, file, shallow=False):
                _copy(source, file)
                copied.append(file.relative_to(paths.root).as_posix())
    return copied


def _files(source: Path, target: Path) -> list[tuple[Path, Path]]:
    if source.is_file():
        return [(source, target)]
    return [(path, target / path.name) for path in sorted(source.iterdir()) if path.is_file()]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    shutil.copyfile(source, partial)
    partial.replace(target)
