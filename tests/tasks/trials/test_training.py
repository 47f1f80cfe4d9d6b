"""Candidates trained: what they share is made once, and what is cut off goes on."""

from __future__ import annotations

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
    params, said = read_params(several.root / "params.yaml"), []
    with tracker.night(several, params, "flow"):
        for stage in VERSIONED:
            runner.bring_up_to_date(stage, several, params)
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
    seed, said, run_stage = named["seed-1"], [], runner.run_stage

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


Aside = Callable[[], tuple[dict[str, Standing], list[str]]]


@pytest.fixture
def aside(several: Paths, toy_night: Callable[[], list[str]], tmp_path: Path) -> Aside:
    """Called, it trains two variants with two seeds aside; returns by name what became of each, and how each stage."""
    file = tmp_path / "variants.yaml"
    file.write_text("full: {}\nlora: {policy: {adapter: {rank: 4}}}\n")
    trials = read_trials(several.root / "params.yaml", [0, 1], file)

    def train() -> tuple[dict[str, Standing], list[str]]:
        said: list[str] = []
        return {row.name: runner.train_aside(several, row, said.append) for row in trials}, [
            f"{line.split()[-1]} {line.split()[0]} {line.split()[1]}" for line in said
        ]

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


@pytest.mark.parametrize("versioned", [True, False], ids=["git", "no git"])
def test_aside_from_nights_what_variants_share_is_trained_once_a_seed(
    several: Paths, aside: Aside, versioned: bool
) -> None:
    """The data of two seeds differ; repeated, nothing runs; what was deleted comes back from the cache.

    The wall time is told where every stage ran.
    """
    if not versioned:
        shutil.rmtree(several.root / ".git")
    standings, said = aside()
    count = len(VERSIONED)
    shared = VERSIONED.index("policy")
    restored = ["restored"] * shared + ["ran"] * (count - shared)
    names = ["full-seed-0", "full-seed-1", "lora-seed-0", "lora-seed-1"]
    assert said == how(dict(zip(names, [["ran"] * count] * 2 + [restored] * 2, strict=True)))
    assert [(row.variant, row.seed) for row in standings.values()] == [
        *(("full", 0), ("full", 1), ("lora", 0), ("lora", 1))
    ]
    assert [standings[name].figures["policy.rougeL"] for name in names] == [0.625] * 4
    assert ["wall_s" in standings[name].figures for name in names] == [True, True, False, False]

    raw, policy = (
        {name: digests.digest(workspaces.aside(several, name).root / output) for name in names}
        for output in ("data/raw", "data/models/policy")
    )
    assert raw["full-seed-0"] == raw["lora-seed-0"] != raw["full-seed-1"] == raw["lora-seed-1"]
    assert len(set(policy.values())) == 4

    standings, said = aside()
    assert said == how({name: ["cached"] * count for name in names})
    assert not any("wall_s" in row.figures for row in standings.values())
    shutil.rmtree(several.nights / "seeds")
    standings, said = aside()
    assert said == how({name: ["restored"] * count for name in names})
    assert not any("wall_s" in row.figures for row in standings.values())
    assert digests.digest(workspaces.aside(several, "lora-seed-1").root / "data/models/policy") == policy["lora-seed-1"]


def test_training_aside_leaves_the_workspace_and_its_runs_alone(several: Paths, aside: Aside) -> None:
    """dvc.lock, data, params.yaml and MLflow's database are as the last night left them."""
    with tracker.night(several, read_params(several.root / "params.yaml"), "flow"):
        for stage in VERSIONED:
            runner.bring_up_to_date(stage, several, read_params(several.root / "params.yaml"))
    (several.champion / "config.json").write_text("as it lies here")
    before = contents(several.root)
    aside()
    assert contents(several.root) == before
    folder = workspaces.aside(several, "full-seed-0")
    assert (folder.champion / "config.json").read_text() == "as it lies here"
    assert not folder.mlruns.exists()


def test_training_aside_that_was_cut_off_goes_on_from_there(
    several: Paths, aside: Aside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished stages are kept, and the one that was cut off runs again."""
    run_stage = runner.run_stage

    def cut(stage: str, paths: Paths, params: Params) -> dict[str, float]:
        if stage == "reward":
            raise KeyboardInterrupt
        return run_stage(stage, paths, params)

    monkeypatch.setattr(runner, "run_stage", cut)
    with pytest.raises(KeyboardInterrupt):
        aside()
    monkeypatch.setattr(runner, "run_stage", run_stage)
    standings, said = aside()
    done = VERSIONED.index("reward")
    assert said[: len(VERSIONED)] == how({"full-seed-0": ["cached"] * done + ["ran"] * (len(VERSIONED) - done)})
    assert ["wall_s" in standings[f"full-seed-{seed}"].figures for seed in (0, 1)] == [False, True]
