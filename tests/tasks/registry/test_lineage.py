"""The lineage of a registered policy, from the registry and MLflow alone, and the command that prints it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import digests, register
from tasks.files import write_text
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.registry import lineage, versions
from tasks.stages import STAGES, sections
from tasks.tracking import mlflow_store, tracker
from tasks.versioning import git, provenance

CHAIN = ("policy", "reward model", "pairs", "rankings", "rollouts", "SFT", "data from builtin")
METRICS = {
    "validate": {"rows_in": 300.0, "rows_kept": 290.0, "rows_rejected": 10.0},
    "sft": {"eval_loss": 0.51234, "perplexity": 1.7},
    "rank": {"rankings": 3.0, "annotators": 2.0, "tie_share": 0.0},
    "pairs": {"pairs": 3.0},
    "reward": {"accuracy": 0.9, "auc": 0.95, "ece": 0.01},
    "policy": {"kl": 2.6, "reward_mean": 1.2},
}


def run_night(paths: Paths, params: Params) -> dict[str, str]:
    """A night whose stages leave their runs, digests and figures, then register; returns the runs' ids by stage."""
    runs = {}
    paths.feedback.mkdir()
    with tracker.night(paths, params, "flow"):
        for name, stage in STAGES.items():
            with tracker.stage(name, paths, params, tuple(sections(name))) as run:
                for path in stage.writes:
                    if not (paths.root / path).exists():
                        write_text(paths.root / path / "rows.jsonl", f'{{"made by": "{name}"}}\n')
                metrics = (
                    register.run(paths, params.register_, params.model) if name == "register" else METRICS.get(name)
                )
                run.log(metrics or {})
                tracker.record_outputs(paths, run.run_id, provenance.digests(paths, stage.writes))
                runs[name] = run.run_id
    return runs


def shown(found: lineage.Lineage) -> list[str]:
    """The tree's lines."""
    return lineage.render(found).splitlines()


def traced(paths: Paths, which: str = "champion") -> lineage.Lineage:
    client = mlflow_store.open_client(paths)
    return lineage.trace(client, versions.get_policy(client, "nightjar", which))


@pytest.fixture
def night(evaluated: Paths, tracked_params: Params) -> tuple[Paths, dict[str, str]]:
    """A workspace after such a night, in a git checkout, whose data are gone since; and the runs."""
    git = ["git", "-C", str(evaluated.root), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "start"]):
        subprocess.run([*git, *command], check=True)
    runs = run_night(evaluated, tracked_params)
    shutil.rmtree(evaluated.data)
    return evaluated, runs


def test_a_policy_is_followed_down_to_its_data(night: tuple[Paths, dict[str, str]]) -> None:
    """Each thing stands below what was made of it, with its figures, its run and its digests; data/ is gone."""
    paths, runs = night
    lines = shown(traced(paths))
    assert lines[0] == "nightjar-policy version 1 (challenger, champion)"
    depths = {}
    for title in CHAIN:
        [line] = [line for line in lines if line.lstrip("│├└─ ").startswith(title)]
        depths[title] = len(line) - len(line.lstrip("│├└─ "))
    assert list(depths.values()) == sorted(set(depths.values()))
    told = {line.lstrip("│├└─ ") for line in lines}
    assert f"policy, training reward 1.200, KL 2.60, run {runs['policy']}" in told
    assert (
        f"reward model: nightjar-reward version 1, accuracy 0.9000, AUC 0.9500, ECE 0.0100, run {runs['reward']}"
        in told
    )
    assert f"rankings by ana (2), bo (1), share of ties 0.0000, run {runs['rank']}" in told
    assert f"SFT, started from random weights (llama), dev loss 0.512, perplexity 1.700, run {runs['sft']}" in told
    assert "data from builtin, rows in 300, rows kept 290, rows rejected 10" in told
    tags = traced(paths).tags
    for path in ("data/models/policy", "data/models/reward", "data/pairs", "data/rankings", "data/raw"):
        assert f"{path} {tags[f'data.{path}']}" in told
    assert not [line for line in told if line.startswith("data/feedback")]  # empty: nobody brought any
    assert f"git commit {git.state(paths.root)['commit']}" in told
    assert f"params.yaml {digests.digest(paths.root / 'params.yaml')}, kept in run {runs['register']}" in told
    assert any(line.startswith("with ") and f"torch {provenance.versions()['torch']}" in line for line in told)


def test_a_run_that_was_deleted_leaves_the_digests(night: tuple[Paths, dict[str, str]]) -> None:
    """The version's own tags still tell what it was made of; the run is said to be gone."""
    paths, _ = night
    client = mlflow_store.open_client(paths)
    versions.tag(client, "nightjar-policy", 1, {"run.pairs": "0" * 32})
    lines = [line.lstrip("│├└─ ") for line in shown(traced(paths))]
    assert "pairs, run not in this database" in lines
    assert f"data/pairs {traced(paths).tags['data.data/pairs']}" in lines


def test_a_policy_that_began_with_the_champion_names_it(night: tuple[Paths, dict[str, str]]) -> None:
    """By the content that lay in data/champion; only where SFT was told to start from it."""
    paths, runs = night
    client = mlflow_store.open_client(paths)
    content = client.get_model_version("nightjar-policy", "1").tags["content"]
    made = client.create_model_version("nightjar-policy", "file:///later", tags={"run.sft": runs["sft"]})
    versions.tag(client, "nightjar-policy", made.version, {"data.data/champion": content})
    assert traced(paths, "2").start is None
    run_id = mlflow_store.create_run(client, paths, "sft", {})
    mlflow_store.log(client, run_id, params={"sft.start": "champion"})
    versions.tag(client, "nightjar-policy", made.version, {"run.sft": run_id})
    assert traced(paths, "2").start == 1
    assert any("SFT, started from nightjar-policy version 1" in line for line in shown(traced(paths, "2")))


def test_what_people_ranked_did_not_come_from_the_rollouts(night: tuple[Paths, dict[str, str]]) -> None:
    """Below their rankings stands SFT, and the feedback is among the data."""
    paths, _ = night
    client = mlflow_store.open_client(paths)
    run_id = mlflow_store.create_run(client, paths, "rank", {})
    mlflow_store.log(client, run_id, params={"rank.annotator": "people"})
    versions.tag(client, "nightjar-policy", 1, {"run.rank": run_id})
    lines = [line.lstrip("│├└─ ") for line in shown(traced(paths))]
    assert not [line for line in lines if line.startswith("rollouts")]
    assert [line for line in lines if line.startswith("data/validated/feedback ")]


def nightjar(root: Path, *arguments: str) -> Any:
    """The command, in a process of its own, in a narrow terminal."""
    command = [sys.executable, "-P", "-m", "flows", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_the_commands_answer_on_a_real_registry(night: tuple[Paths, dict[str, str]]) -> None:
    """lineage prints unbroken lines, by alias and by number; an unknown version and a first champion are refused."""
    paths, runs = night
    printed = nightjar(paths.root, "lineage").stdout
    assert nightjar(paths.root, "lineage", "v1").stdout == printed
    assert (
        f"reward model: nightjar-reward version 1, accuracy 0.9000, AUC 0.9500, ECE 0.0100, run {runs['reward']}\n"
        in printed
    )
    unknown = nightjar(paths.root, "lineage", "7")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
    assert "7: no such version of nightjar-policy; give one of 1" in unknown.stderr
    refused = nightjar(paths.root, "rollback", "--why", "x")
    assert refused.returncode == 1
    assert "version 1 is the first champion" in refused.stderr


def test_a_workspace_without_a_registry_stays_as_it_is(tmp_path: Path, tracked: Paths) -> None:
    """No database is made by asking."""
    (tracked.mlruns / "mlflow.db").unlink()
    before = sorted(tracked.root.rglob("*"))
    for command in ("lineage", "rollback", "chat"):
        done = nightjar(tracked.root, command)
        assert done.returncode == 1
        assert "nothing is registered here yet; a night registers its policy: nightjar run" in done.stderr
    assert sorted(tracked.root.rglob("*")) == before
