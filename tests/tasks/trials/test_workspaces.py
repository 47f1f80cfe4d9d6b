"""The workspaces that candidates get."""

from __future__ import annotations

import os
import shutil

from tasks.params.whole import read_params
from tasks.paths import Paths
from tasks.trials import workspaces
from tasks.trials.candidates import Candidate


def test_a_workspace_has_the_code_the_data_and_params_of_its_own(several: Paths, named: dict[str, Candidate]) -> None:
    """Also what is not committed; what was deleted goes, what was trained stays, and the sources cost no space."""
    (several.source / "mine.jsonl").write_text("{}\n")
    (several.root / "tasks" / "fresh.py").write_text("# not committed\n")
    seed, workspace = named["seed-1"], several.workspace_of("seed-1")
    workspaces.prepare(several, workspace, seed)
    assert (workspace.home, workspace.mlruns, workspace.nights) == (several.root, several.mlruns, several.nights)
    assert read_params(workspace.root / "params.yaml") == seed.params
    assert (workspace.root / "tasks" / "fresh.py").is_file()
    assert os.path.samefile(workspace.source / "mine.jsonl", several.source / "mine.jsonl")
    assert not (workspace.root / ".git").exists()
    (workspace.root / "dvc.lock").write_text("kept")
    (several.root / "tasks" / "fresh.py").unlink()
    (several.source / "mine.jsonl").unlink()
    (several.root / "tasks" / "sft.py").write_text("# changed\n")
    workspaces.prepare(several, workspace, seed)
    assert not (workspace.root / "tasks" / "fresh.py").exists()
    assert not (workspace.source / "mine.jsonl").exists()
    assert (workspace.root / "tasks" / "sft.py").read_text() == "# changed\n"
    assert (workspace.root / "dvc.lock").read_text() == "kept"


def test_a_workspace_without_git_has_what_the_stages_need(several: Paths, named: dict[str, Candidate]) -> None:
    """The graph, DVC's settings, the code of the stages and what that imports."""
    shutil.rmtree(several.root / ".git")
    (several.root / "tasks" / "sft.py").write_text("import tasks.params\n")
    (several.root / "notes.txt").write_text("mine")
    workspace = several.workspace_of("seed-1")
    workspaces.prepare(several, workspace, named["seed-1"])
    for name in ("dvc.yaml", ".dvcignore", ".dvc/config", "tasks/sft.py", "tasks/params.py", "data/source/README.md"):
        assert (workspace.root / name).is_file(), name
    assert not (workspace.root / "notes.txt").exists()


def test_workspaces_of_candidates_that_are_none_any_more_go(several: Paths, named: dict[str, Candidate]) -> None:
    """A seed that params.yaml no longer names leaves nothing behind."""
    for name in list(named)[1:]:
        workspaces.prepare(several, several.workspace_of(name), named[name])
    workspaces.remove_others(several, list(named)[:2])
    assert [several.workspace_of(name).root.exists() for name in list(named)[1:]] == [True, False, False]
