"""A night's experiment: what it holds, that it moves nothing, and that DVC's own commands know it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tasks.params.whole import read_params
from tasks.paths import Paths
from tasks.reproducibility import experiments
from tasks.reproducibility.experiments import Experiment
from tasks.stages import VERSIONED
from tasks.tracking import mlflow_store, tracker
from tasks.versioning import dvc_repo

NIGHT = "night-2026-11-21-0200"


def dvc(root: Path, *arguments: str) -> str:
    """Runs DVC's own command and returns what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # dvc.yaml says just `python`
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git(root: Path, *arguments: str) -> str:
    """What git prints."""
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout


def shown(root: Path) -> dict[str, dict[str, Any]]:
    """What `dvc exp show` knows of each experiment, by its name."""
    [_, baseline] = json.loads(dvc(root, "exp", "show", "--json", "--force"))
    return {each["name"]: each["revs"][0]["data"] for each in baseline["experiments"] or []}


def change(root: Path, old: str, new: str) -> None:
    """Edits params.yaml."""
    file = root / "params.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


@pytest.fixture
def ignoring(toy: Path, repository: Path) -> Path:
    """The toy where git ignores what it ignores in this project, and all stages ran."""
    shutil.copyfile(repository / ".gitignore", toy / ".git/info/exclude")
    with (toy / ".git/info/exclude").open("a") as ignored:
        ignored.write("ran.txt\n*.csv\n")
    return toy


@pytest.fixture
def run_all(toy_module: ModuleType) -> Callable[[Path], list[str]]:
    """Brings a workspace's stages up to date in this process, and says which of them ran."""

    def run(root: Path) -> list[str]:
        def bring(stage: str) -> str:
            return dvc_repo.reproduce(stage, root, lambda: toy_module.run(stage, root)).status

        return [stage for stage in VERSIONED if bring(stage) == "ran"]

    return run


def test_it_holds_what_made_the_night_and_moves_nothing(ignoring: Path, run_all: Callable[[Path], list[str]]) -> None:
    """With edits staged, unstaged and new in the checkout: none of its files changes, nor the branch or the index.

    The experiment, a child of HEAD, has the edits, new code, dvc.lock, figures and plots, though git ignores some; a
    private note is not in it.
    """
    toy = ignoring
    run_all(toy)
    change(toy, "batch_size: 1\n", "batch_size: 2\n")
    git(toy, "add", "params.yaml")
    change(toy, "batch_size: 2\n", "batch_size: 3\n")
    (toy / ".dvcignore").write_text("# edited\n")
    (toy / "tasks/new.py").write_text("# new\n")
    (toy / "notes.txt").write_text("private\n")

    def state() -> list[object]:
        places = [path for path in sorted(toy.rglob("*")) if path.is_file()]
        files = [path for path in places if not {".git", "tmp"} & set(path.parts)]
        asked = (["status", "--porcelain"], ["stash", "list"], ["branch", "-v"], ["symbolic-ref", "HEAD"])
        return [
            {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files},
            (toy / ".git/index").read_bytes(),
            *(git(toy, "--no-optional-locks", *arguments) for arguments in asked),
        ]

    before = state()
    found = experiments.save(Paths(toy), NIGHT)
    assert state() == before
    names = git(toy, "ls-tree", "-r", "--name-only", found.commit).split()
    assert {"tasks/new.py", "dvc.lock", "data/metrics/policy.json", "data/plots/sft/loss.csv"} <= set(names)
    assert not {"notes.txt", "ran.txt"} & set(names)
    assert "batch_size: 3" in git(toy, "show", f"{found.commit}:params.yaml")
    assert git(toy, "show", f"{found.commit}:.dvcignore") == "# edited\n"
    assert git(toy, "rev-parse", f"{found.commit}^") == git(toy, "rev-parse", "HEAD")


def test_dvc_shows_compares_branches_and_brings_it_back(
    ignoring: Path, run_all: Callable[[Path], list[str]], dvc_repro: Callable[[Path], str]
) -> None:
    """Two nights, with other params and another line of code, as DVC's own commands see them.

    After `dvc exp apply` of either, `dvc repro` has nothing to run, and the data are that night's.
    """
    toy, later = ignoring, "night-2026-11-22-0200-v2"
    run_all(toy)
    experiments.save(Paths(toy), NIGHT)
    kept = [(toy / name).read_text() for name in ("dvc.lock", "data/models/policy/rows.jsonl")]
    change(toy, "learning_rate: 1.0e-3\nreward", "learning_rate: 2.0e-3\nreward")
    (toy / "tasks/reward.py").write_text("# another line\n")
    assert run_all(toy) == ["sft", "rollouts", "rank", "pairs", "reward", "policy", "evaluate", "report"]
    experiments.save(Paths(toy), later)

    found = shown(toy)
    assert set(found) == {NIGHT, later}
    assert found[NIGHT]["metrics"]["data/metrics/evaluate.json"]["data"]["policy.rougeL"] == 0.625
    assert found[later]["params"]["params.yaml"]["data"]["sft"]["learning_rate"] == 0.002
    differ = json.loads(dvc(toy, "exp", "diff", NIGHT, later, "--json"))
    assert differ["params"]["params.yaml"]["sft.learning_rate"] == {"old": 0.001, "new": 0.002, "diff": 0.001}
    dvc(toy, "exp", "branch", NIGHT, "kept")
    assert "dvc.lock" in git(toy, "ls-tree", "--name-only", "kept").split()

    dvc(toy, "exp", "apply", NIGHT)
    assert "Data and pipelines are up to date." in dvc_repro(toy)
    assert [(toy / name).read_text() for name in ("dvc.lock", "data/models/policy/rows.jsonl")] == kept
    dvc(toy, "exp", "apply", later)
    assert run_all(toy) == []
    assert (toy / "tasks/reward.py").read_text() == "# another line\n"


def test_a_name_is_used_once_whatever_commit_it_started_from(ignoring: Path) -> None:
    """Two nights of a minute, and a third after the branch moved on: three names, each known."""
    paths = Paths(ignoring)
    names = [experiments.save(paths, NIGHT).name for _ in range(2)]
    git(ignoring, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "on", "--allow-empty")
    names.append(experiments.save(paths, NIGHT).name)
    assert names == [NIGHT, f"{NIGHT}-2", f"{NIGHT}-3"]
    assert sorted(each.name for each in experiments.known(paths)) == names


def test_a_candidate_s_experiment_goes_to_the_home_checkout(
    ignoring: Path, tmp_path: Path, run_all: Callable[[Path], list[str]]
) -> None:
    """A clone with other params leaves its commit in the repository that it belongs to, and that one's files alone.

    A note that the candidate's data folder lacks is not taken for removed.
    """
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(ignoring), str(clone))
    change(clone, "ingest: {seed: 1}", "ingest: {seed: 2}")
    run_all(clone)
    (clone / "data/feedback/README.md").unlink()
    found = experiments.save(Paths(clone, home=ignoring), f"{NIGHT}-seed-2")
    assert [each.name for each in experiments.known(Paths(ignoring))] == [found.name]
    assert git(ignoring, "show", f"{found.commit}:dvc.lock") == (clone / "dvc.lock").read_text()
    assert "seed: 2" in git(ignoring, "show", f"{found.commit}:params.yaml")
    assert git(ignoring, "ls-tree", "--name-only", found.commit, "data/feedback/") == "data/feedback/README.md\n"
    assert "seed: 1" in (ignoring / "params.yaml").read_text()


def test_what_changed_during_the_night_is_said(
    ignoring: Path, run_all: Callable[[Path], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """A line edited after its stage ran is kept as it is now, and the stages that ran without it are named."""
    run_all(ignoring)
    (ignoring / "tasks/reward.py").write_text("# edited while policy ran\n")
    experiments.save(Paths(ignoring), NIGHT)
    assert f"{NIGHT}: its files have changed since reward ran" in capsys.readouterr().out


def test_dvc_runs_experiments_of_its_own_on_the_graph(ignoring: Path, run_all: Callable[[Path], list[str]]) -> None:
    """In the workspace with a changed param, and from the queue in copies; only what depends on it runs.

    Small numbers too, which DVC writes as 1e-05; and `dvc exp apply` brings either back.
    """
    toy = ignoring
    shutil.copyfile(Path(__file__).resolve().parents[3] / "params.yaml", toy / "params.yaml")
    run_all(toy)
    (toy / "ran.txt").unlink()
    dvc(toy, "exp", "run", "-n", "mine", "-S", "policy.kl.coefficient=.1")
    assert (toy / "ran.txt").read_text().split() == ["policy", "evaluate", "report"]
    params = read_params(toy / "params.yaml")
    assert (params.policy.kl.coefficient, params.policy.learning_rate) == (0.1, 6.0e-4)

    dvc(toy, "exp", "run", "--queue", "-n", "first", "-S", "policy.kl.coefficient=.2")
    dvc(toy, "exp", "run", "--queue", "-n", "second", "-S", "policy.learning_rate=1.0e-5")
    dvc(toy, "queue", "start")
    try:
        wait_for(lambda: {"first", "second"} <= {each.name for each in experiments.known(Paths(toy))})
    finally:
        dvc(toy, "queue", "stop")
    found = shown(toy)
    policy = [found[name]["params"]["params.yaml"]["data"]["policy"] for name in ("mine", "first", "second")]
    assert [(each["kl"]["coefficient"], each["learning_rate"]) for each in policy] == [
        (0.1, 6.0e-4),
        (0.2, 6.0e-4),
        (0.1, 1.0e-5),
    ]
    dvc(toy, "exp", "apply", "second")
    assert read_params(toy / "params.yaml").policy.learning_rate == 1.0e-5
    assert run_all(toy) == []


def wait_for(condition: Callable[[], bool]) -> None:
    """Returns when the condition holds; the queue's worker tells nobody when it is done."""
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)


@pytest.fixture
def record(ignoring: Path, migrated: Path) -> Callable[..., Experiment | None]:
    """Records the toy as the experiment of a night, which registers a policy version where it is told to."""
    paths, policy = Paths(ignoring), "nightjar-policy"
    paths.mlruns.mkdir()
    shutil.copyfile(migrated, paths.mlruns / "mlflow.db")

    def call(name: str = NIGHT, candidate: str | None = None, registers: bool = False) -> Experiment | None:
        params = read_params(ignoring / "params.yaml")
        with tracker.night(paths, params, "flow", name=name) as run_id:
            if registers:
                client = mlflow_store.open_client(paths)
                client.create_registered_model(policy)
                client.create_model_version(policy, "file:///nowhere", run_id, tags={"night": run_id})
            return experiments.record(paths, params, run_id, candidate)

    return call


@pytest.mark.parametrize("lacking", ["git", "commit"])
def test_without_git_or_a_commit_there_is_none_and_that_is_said(
    ignoring: Path, record: Callable[..., Experiment | None], capsys: pytest.CaptureFixture[str], lacking: str
) -> None:
    """The night does not fail for it; one line says why, and what to do."""
    shutil.rmtree(ignoring / ".git")
    if lacking == "commit":
        git(ignoring, "init", "-q")
    assert record() is None
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 1
    assert f"no experiment is kept of {NIGHT}" in said[0]
    assert "git add -A && git commit -m start" in said[0]


def test_it_is_written_to_the_night_and_its_version_and_found_by_them(
    ignoring: Path, record: Callable[..., Experiment | None]
) -> None:
    """The night's run and the version it registered carry name and commit; a candidate's experiment stands alone.

    It is found by version, alias, name and night, with the libraries that were written down.
    """
    paths, params = Paths(ignoring), read_params(ignoring / "params.yaml")
    policy, other = record(registers=True), record(candidate="seed-1")
    assert policy is not None
    assert other is not None
    assert (policy.name, other.name) == (f"{NIGHT}-v1", f"{NIGHT}-seed-1")
    client = mlflow_store.open_client(paths)
    version = client.get_model_version("nightjar-policy", "1")
    for tags in (version.tags, client.get_run(version.run_id).data.tags):
        assert (tags["experiment"], tags["experiment.commit"]) == policy

    client.set_model_version_tag("nightjar-policy", "1", "version.torch", "1.0")
    client.set_registered_model_alias("nightjar-policy", "champion", "1")
    for which in ("1", "v1", "champion"):
        assert experiments.find(paths, params, which) == (policy, {"torch": "1.0"})
    for which in (f"{NIGHT}-v1", NIGHT, f"{NIGHT}-v"):
        found, libraries = experiments.find(paths, params, which)
        assert found == policy
        assert libraries["python"] == sys.version.split()[0]
    with pytest.raises(ValueError, match=f"night-2026: several experiments begin so; .*{NIGHT}-seed-1"):
        experiments.find(paths, params, "night-2026")
    with pytest.raises(ValueError, match=f"fly: no such experiment; .*{NIGHT}-v1"):
        experiments.find(paths, params, "fly")
    client.create_model_version("nightjar-policy", "file:///nowhere")
    with pytest.raises(ValueError, match="policy version 2 has no experiment"):
        experiments.find(paths, params, "2")
