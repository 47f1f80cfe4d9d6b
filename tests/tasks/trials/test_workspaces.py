"""The workspaces that candidates get: what they share is trained once, and what is cut off goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import deadline, digests, runner
from tasks.params.whole import Params, read_params
from tasks.paths import Paths
from tasks.stages import VERSIONED
from tasks.tracking import tracker
from tasks.trials import workspaces
from tasks.trials.candidates import Candidate, read_trials
from tasks.trials.standings import Standing


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


@pytest.mark.parametrize("versioned", [True, False], ids=["git", "no git"])
def test_what_candidates_have_in_common_is_trained_once(
    several: Paths,
    named: dict[str, Candidate],
    toy_night: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    versioned: bool,
) -> None:
    """A seed starts anew at sft, a variant at its own stage: the rest comes from the cache of the workspace."""
    if not versioned:
        shutil.rmtree(several.root / ".git")
    ran: list[tuple[Path, str]] = []
    run_stage = runner.run_stage

    def logged(stage: str, paths: Paths, params: Params) -> dict[str, float]:
        ran.append((paths.root, stage))
        return run_stage(stage, paths, params)

    monkeypatch.setattr(runner, "run_stage", logged)
    params = read_params(several.root / "params.yaml")
    said: list[str] = []
    with tracker.night(several, params, "flow"):
        for stage in VERSIONED:
            runner.update_stage(stage, several, params)
        for name in ("seed-1", "rloo-seed-1"):
            runner.train(several, named[name], said.append)
    by = {root: [stage for where, stage in ran if where == root] for root, _ in ran}
    assert by == {
        several.root: list(VERSIONED),
        several.workspace_of("seed-1").root: list(VERSIONED[2:]),
        several.workspace_of("rloo-seed-1").root: ["policy", "evaluate", "report"],
    }
    assert [line.split()[:2] for line in said[:3]] == [["ingest", "restored"], ["validate", "restored"], ["sft", "ran"]]
    ours, theirs = (paths.models / "sft" / "rows.jsonl" for paths in (several, several.workspace_of("seed-1")))
    assert ours.read_text() != theirs.read_text()


def test_a_candidate_past_the_deadline_ends_and_the_next_night_goes_on_from_there(
    several: Paths,
    named: dict[str, Candidate],
    toy_night: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No stage starts after it, and those that had ended are kept."""
    seed, run_stage = named["seed-1"], runner.run_stage
    said: list[str] = []

    def late(stage: str, *given: Any) -> dict[str, float]:
        if stage == "sft":
            monkeypatch.setenv(deadline.VARIABLE, "1.0")
        return run_stage(stage, *given)

    monkeypatch.setattr(runner, "run_stage", late)
    with tracker.night(several, read_params(several.root / "params.yaml"), "flow"):
        with pytest.raises(deadline.DeadlineError, match="before rollouts of seed-1"):
            runner.train(several, seed, said.append)
        monkeypatch.delenv(deadline.VARIABLE)
        monkeypatch.setattr(runner, "run_stage", run_stage)
        runner.train(several, seed, said.append)
    assert [line.split()[:2] for line in said[:3]] == [[stage, "ran"] for stage in VERSIONED[:3]]
    assert [line.split()[:2] for line in said[3:7]] == [
        *([stage, "cached"] for stage in VERSIONED[:3]),
        ["rollouts", "ran"],
    ]


Aside = Callable[..., tuple[dict[str, Standing], list[str]]]


@pytest.fixture
def aside(several: Paths, toy_night: Callable[[], list[str]], tmp_path: Path) -> Aside:
    """Called with names, it trains those candidates aside; returns what became of each, and how each stage did."""
    file = tmp_path / "variants.yaml"
    file.write_text("full: {}\nlora: {policy: {adapter: {rank: 4}}}\n")
    trials = {row.name: row for row in read_trials(several.root / "params.yaml", [0, 1], file)}

    def train(*names: str) -> tuple[dict[str, Standing], list[str]]:
        said: list[str] = []
        standings = {name: runner.train_aside(several, trials[name], said.append) for name in names}
        return standings, [" ".join(line.split()[part] for part in (-1, 0, 1)) for line in said]

    return train


def how(statuses: dict[str, list[str]]) -> list[str]:
    """The lines that candidates say, by the status of each stage in order."""
    return [
        f"{name} {stage} {status}"
        for name, each in statuses.items()
        for stage, status in zip(VERSIONED, each, strict=True)
    ]


def contents(root: Path) -> dict[str, str]:
    """The digest of every file outside of nights/seeds and of what DVC keeps for itself."""
    files = (path for path in root.rglob("*") if path.is_file() and ".dvc" not in path.relative_to(root).parts)
    names = {path.relative_to(root).as_posix(): path for path in files}
    return {name: digests.digest(path) for name, path in names.items() if not name.startswith("nights/seeds/")}


def test_aside_from_nights_what_variants_share_is_trained_once_a_seed(several: Paths, aside: Aside) -> None:
    """The data of two seeds differ; repeated, nothing runs; what was deleted comes back from the cache.

    The wall time is told where every stage ran.
    """
    names = ["full-seed-0", "full-seed-1", "lora-seed-0"]
    standings, said = aside(*names)
    count, shared = len(VERSIONED), VERSIONED.index("policy")
    lora = ["restored"] * shared + ["ran"] * (count - shared)
    assert said == how(dict(zip(names, [["ran"] * count, ["ran"] * count, lora], strict=True)))
    assert [(row.variant, row.seed) for row in standings.values()] == [("full", 0), ("full", 1), ("lora", 0)]
    assert [row.folder for row in standings.values()] == [f"nights/seeds/{name}" for name in names]
    assert [row.figures["policy.rougeL"] for row in standings.values()] == [0.625] * 3
    assert ["wall_s" in row.figures for row in standings.values()] == [True, True, False]

    raw, policy = (
        [digests.digest(workspaces.aside(several, name).root / output) for name in names]
        for output in ("data/raw", "data/models/policy")
    )
    assert raw[0] == raw[2] != raw[1]
    assert len(set(policy)) == 3

    shutil.rmtree(workspaces.aside(several, "lora-seed-0").root)
    standings, said = aside(*names[1:])
    assert said == how({"full-seed-1": ["cached"] * count, "lora-seed-0": ["restored"] * count})
    assert not any("wall_s" in row.figures for row in standings.values())
    assert digests.digest(workspaces.aside(several, "lora-seed-0").root / "data/models/policy") == policy[2]


def test_training_aside_leaves_the_workspace_and_its_runs_alone(several: Paths, aside: Aside) -> None:
    """dvc.lock, data, params.yaml and MLflow's database are as the last night left them."""
    (several.root / ".gitignore").write_text("mlruns\nnights\n")
    params = read_params(several.root / "params.yaml")
    with tracker.night(several, params, "flow"):
        runner.update_stage("ingest", several, params)
    (several.champion / "config.json").write_text("as it lies here")
    before = contents(several.root)
    aside("full-seed-0")
    assert contents(several.root) == before
    workspace = workspaces.aside(several, "full-seed-0")
    assert (workspace.champion / "config.json").read_text() == "as it lies here"
    assert not workspace.mlruns.exists()


def test_training_aside_that_was_cut_off_goes_on_from_there_also_without_git(
    several: Paths, aside: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished stages are kept, and the one that was cut off runs again; the wall time is no longer known."""
    shutil.rmtree(several.root / ".git")
    run_stage, done = runner.run_stage, VERSIONED.index("reward")

    def cut(stage: str, paths: Paths, params: Params) -> dict[str, float]:
        if stage == "reward":
            raise KeyboardInterrupt
        return run_stage(stage, paths, params)

    monkeypatch.setattr(runner, "run_stage", cut)
    with pytest.raises(KeyboardInterrupt):
        aside("full-seed-0")
    monkeypatch.setattr(runner, "run_stage", run_stage)
    standings, said = aside("full-seed-0")
    assert said == how({"full-seed-0": ["cached"] * done + ["ran"] * (len(VERSIONED) - done)})
    assert "wall_s" not in standings["full-seed-0"].figures
