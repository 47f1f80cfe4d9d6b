"""Presets, and the data that params name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import presets
from tasks.params.whole import read_params
from tasks.paths import Paths
from tasks.stages import check_sections

SMALL = """\
# A small set-up.
model:
  config: {model_type: llama}
ingest:
  source: builtin
# Supervised.
sft:
  steps: 1          # few
  batch_size: 1
  learning_rate: 1.0e-3
reward:
    steps: 1
    batch_size: 1
    learning_rate: 1.0e-3
policy:
  iterations: 1
  prompts_per_iteration: 1
"""
PEOPLE = (
    SMALL.replace("source: builtin", "source: data/source/corpus")
    + """\
rank:
  annotator: people
  feedback:
    train: [rankings/train.jsonl.gz]
    judge: [more.jsonl]
"""
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with the presets `small` and `people`, and no params.yaml."""
    workspace = tmp_path / "workspace"
    (workspace / "presets").mkdir(parents=True)
    (workspace / "presets/small.yaml").write_text(SMALL)
    (workspace / "presets/people.yaml").write_text(PEOPLE)
    return workspace


def test_a_preset_becomes_the_params(root: Path) -> None:
    """It is copied as it is, comments included."""
    assert presets.apply_preset(root, "small") == ["params.yaml is now preset small"]
    assert (root / "params.yaml").read_text() == SMALL
    assert presets.apply_preset(root, "small") == ["params.yaml is preset small already"]


def test_an_edited_params_file_is_kept_and_a_preset_is_not(root: Path) -> None:
    """Only what somebody wrote is saved, and an earlier backup is never overwritten."""
    presets.apply_preset(root, "small")
    assert len(presets.apply_preset(root, "people")) == 1
    assert not list(root.glob("*.bak*"))
    for number, name in ((3, "params.yaml.bak"), (4, "params.yaml.bak2")):
        edited = SMALL.replace("steps: 1 ", f"steps: {number} ")
        (root / "params.yaml").write_text(edited)
        assert presets.apply_preset(root, "people")[0] == f"your edited params.yaml is kept as {name}"
        assert (root / name).read_text() == edited


def test_an_unknown_preset_lists_the_known(root: Path) -> None:
    """And params.yaml is not touched."""
    (root / "params.yaml").write_text("mine")
    with pytest.raises(ValueError, match="huge: no such preset; the presets are people, small"):
        presets.apply_preset(root, "huge")
    assert (root / "params.yaml").read_text() == "mine"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with all that preset `people` names."""
    mine = tmp_path / "mine"
    for name in ("corpus/train.jsonl", "corpus/raw/notes.txt", "rankings/train.jsonl.gz", "more.jsonl"):
        (mine / name).parent.mkdir(parents=True, exist_ok=True)
        (mine / name).write_text(name)
    return mine


def test_bringing_data_copies_what_the_params_name(root: Path, folder: Path) -> None:
    """Each file to its place; inner folders of a source stay, for ingest reads none."""
    presets.apply_preset(root, "people")
    params = read_params(root / "params.yaml")
    assert presets.copy_data(Paths(root), params, folder) == [
        "data/source/corpus/train.jsonl",
        "data/feedback/rankings/train.jsonl.gz",
        "data/feedback/more.jsonl",
    ]
    assert (root / "data/feedback/rankings/train.jsonl.gz").read_text() == "rankings/train.jsonl.gz"
    assert not (root / "data/source/corpus/raw").exists()
    presets.check_needed(Paths(root), params)


def test_bringing_again_copies_only_what_changed(root: Path, folder: Path) -> None:
    """Unchanged files keep their times, and the user's other files stay."""
    presets.apply_preset(root, "people")
    params, paths = read_params(root / "params.yaml"), Paths(root)
    presets.copy_data(paths, params, folder)
    (root / "data/feedback/mine.jsonl").write_text("kept")
    before = (root / "data/feedback/more.jsonl").stat().st_mtime_ns
    (folder / "corpus/train.jsonl").write_text("other")
    assert presets.copy_data(paths, params, folder) == ["data/source/corpus/train.jsonl"]
    assert (root / "data/feedback/more.jsonl").stat().st_mtime_ns == before
    assert (root / "data/feedback/mine.jsonl").read_text() == "kept"


def test_nothing_is_copied_when_something_is_missing(root: Path, folder: Path) -> None:
    """The error names the path that was expected."""
    presets.apply_preset(root, "people")
    (folder / "more.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"mine/more\.jsonl: no such file or folder, but params\.yaml"):
        presets.copy_data(Paths(root), read_params(root / "params.yaml"), folder)
    assert not (root / "data").exists()


def test_needed_data_that_is_not_there_is_an_error_with_the_remedy(root: Path) -> None:
    """Before anything starts."""
    presets.apply_preset(root, "people")
    with pytest.raises(FileNotFoundError, match=r"data/source/corpus: no such .* --data FOLDER"):
        presets.check_needed(Paths(root), read_params(root / "params.yaml"))


def test_builtin_and_hub_sources_need_no_file(root: Path) -> None:
    """Only local sources are looked for."""
    for source in ("builtin", "hub:org/name"):
        (root / "params.yaml").write_text(SMALL.replace("builtin", source))
        presets.check_needed(Paths(root), read_params(root / "params.yaml"))


def test_every_shipped_preset_is_valid(repository: Path) -> None:
    """A preset that cannot be read would overwrite somebody's params for nothing."""
    for name in presets.preset_names(repository):
        check_sections(read_params(repository / "presets" / f"{name}.yaml"))
