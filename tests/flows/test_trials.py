"""A night with several candidates: who trains what, who goes on, and what stays as it was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tasks import runner
from tasks.__main__ import LATE, REFUSED, main
from tasks.deadline import DeadlineError
from tasks.params.night import UNCHANGED
from tasks.params.whole import Params, read_params
from tasks.paths import Paths
from tasks.registry import versions
from tasks.reproducibility import experiments
from tasks.scheduling import history
from tasks.stages import STAGES, VERSIONED
from tasks.tracking import mlflow_store
from tasks.trials import selection, standings
from tasks.trials.candidates import Candidate, read_candidates
from tasks.trials.selection import HeldOut, Trade

SEVERAL = "night:\n  seeds: [1]\n  variants:\n    rloo: {policy: {algorithm: rloo, completions: 4}}\n"
NAMES = [UNCHANGED, "seed-1", "rloo", "rloo-seed-1"]
SCORES = dict(zip(NAMES, (0.1, 0.2, 0.4, 0.3), strict=True))


@pytest.fixture
def several(toy: Path) -> Paths:
    """The toy with two seeds of two settings, committed."""
    with (toy / "params.yaml").open("a", encoding="utf-8") as file:
        file.write(SEVERAL)
    git = ["git", "-c", "user.name=toy", "-c", "user.email=toy@example.org"]
    subprocess.run([*git, "commit", "-qam", "several candidates"], cwd=toy, check=True)
    return Paths(toy)


@pytest.fixture
def trained(
    several: Paths, toy_night: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[tuple[str, str]]]:
    """Called, it says which candidate ran which stage since it was called last; rloo scores best on dev prompts."""
    ran: list[tuple[str, str]] = []
    run_stage = runner.run_stage

    def logged(stage: str, paths: Paths, params: Params) -> dict[str, float]:
        ran.append((UNCHANGED if paths.root == several.root else paths.root.name, stage))
        return run_stage(stage, paths, params)

    def score(paths: Paths, params: Params, trained: Mapping[str, Paths]) -> HeldOut:
        return HeldOut("judge", {name: [SCORES[name], SCORES[name] + 0.1] for name in trained})

    def since() -> list[tuple[str, str]]:
        found = list(ran)
        ran.clear()
        return found

    monkeypatch.setattr(runner, "run_stage", logged)
    monkeypatch.setattr(selection, "score", score)
    return since


@pytest.fixture
def traded(several: Paths, trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with a weight of ROUGE-L: rloo wins most, and loses so much ROUGE-L that it comes last."""
    file = several.root / "params.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("night:\n", "night:\n  rouge_weight: 5.0\n"))
    wins = dict(zip(NAMES, (0.7, 0.72, 0.8, 0.82), strict=True))
    rouge = dict(zip(NAMES, (0.60, 0.59, 0.55, 0.55), strict=True))

    def score(paths: Paths, params: Params, trained: Mapping[str, Paths]) -> HeldOut:
        assert params.night.rouge_weight == 5.0
        scores = {name: [wins[name] + 5.0 * (rouge[name] - 0.6)] * 2 for name in trained}
        return HeldOut("judge", scores, Trade(0.6, *({name: of[name] for name in trained} for of in (wins, rouge))))

    monkeypatch.setattr(selection, "score", score)


def git(root: Path, *arguments: str) -> str:
    """What git says."""
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout


def tree(paths: Paths) -> dict[str, Any]:
    """The runs of MLflow below each other, by name without their dates; the night itself is the root."""
    client = mlflow_store.open_client(paths)
    runs = client.search_runs([mlflow_store.experiment_id(client, paths)], max_results=1000)

    def below(run_id: str | None) -> dict[str, Any]:
        children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == run_id]
        return {run.info.run_name.split()[0]: below(run.info.run_id) for run in children}

    return below(None)


def test_the_best_candidate_goes_on_and_the_workspace_stays_as_params_say(
    several: Paths,
    prefect: None,
    trained: Callable[[], list[tuple[str, str]]],
    dvc_repro: Callable[[Path], str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What candidates share is trained once, the winner is registered, and `dvc repro` finds nothing to do."""
    from prefect.client.orchestration import get_client

    from flows.night import night

    before = [git(several.root, "rev-parse", "HEAD"), git(several.root, "status", "--porcelain", "--", "params.yaml")]
    assert night(str(several.root)) == dict.fromkeys(STAGES, "ran")
    ran = trained()
    by = {name: [stage for who, stage in ran if who == name] for name in NAMES}
    assert by[UNCHANGED] == list(VERSIONED)
    assert by["seed-1"] == list(VERSIONED[2:])
    assert by["rloo"] == ["policy", "evaluate", "report", "register"]
    assert by["rloo-seed-1"] == ["policy", "evaluate", "report"]
    assert before == [
        git(several.root, "rev-parse", "HEAD"),
        git(several.root, "status", "--porcelain", "--", "params.yaml"),
    ]
    assert "Data and pipelines are up to date." in dvc_repro(several.root)

    kept = standings.read(several)
    assert kept is not None
    assert [row.name for row in kept.candidates] == NAMES
    assert kept.winner == "rloo"
    assert kept.candidates[2].score == pytest.approx(0.45)
    assert kept.candidates[2].standard_error == pytest.approx(0.05)  # |0.5 − 0.4| / 2: two prompts' deviation over √2
    assert capsys.readouterr().out.count("goes on") == 1

    [(name, below)] = tree(several).items()
    assert name == history.read(several)[-1].name
    assert below[UNCHANGED] == {stage: {} for stage in VERSIONED}
    assert set(below) == {*NAMES, "register"}
    assert set(below["rloo"]) == {"policy", "evaluate", "report"}
    run = mlflow_store.open_client(several).get_run(history.read(several)[-1].run_id)
    assert run.data.tags["winner"] == "rloo"
    assert run.data.tags["stage.policy"] == "by rloo"
    with get_client(sync_client=True) as client:
        artifacts = client.request("POST", "/artifacts/latest/filter", json={}).json()
    [table] = [json.loads(artifact["data"]) for artifact in artifacts if artifact["key"] == "candidates"]
    assert table[0]["candidate"] == "rloo"
    kept_of = {row.name.partition(name)[2] for row in experiments.known(several)}
    assert {f"-{other}" for other in NAMES if other != "rloo"} <= kept_of

    assert runner.pending(several, read_params(several.root / "params.yaml")) == []
    night(str(several.root))
    assert history.read(several)[-1].outcome == "nothing new"
    assert trained() == []


def test_a_candidate_that_refuses_its_settings_is_out_and_the_night_goes_on(
    several: Paths,
    prefect: None,
    trained: Callable[[], list[tuple[str, str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its error is kept beside the others' scores, and it is not tried again before something changes."""
    from flows.night import night

    good = runner.run_stage

    def refuse(stage: str, paths: Paths, params: Params) -> dict[str, float]:
        if params.policy.algorithm == "rloo" and stage == "policy":
            raise ValueError("policy: the loss is not a number")
        return good(stage, paths, params)

    monkeypatch.setattr(runner, "run_stage", refuse)
    night(str(several.root))
    kept = json.loads(several.candidates.read_text())
    assert [row["error"] for row in kept["candidates"]] == [None, None] + ["policy: the loss is not a number"] * 2
    assert kept["winner"] == "seed-1"
    assert standings.chosen(several, read_params(several.root / "params.yaml"))[0].root.name == "seed-1"
    assert runner.pending(several, read_params(several.root / "params.yaml")) == []


@pytest.fixture
def beside(several: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Runs a candidate beside the night, with this line of shell in place of what it would do."""
    from flows.trials import Children, train_beside

    candidate = read_candidates(several.root / "params.yaml")[1]

    def run(line: str) -> Any:
        script = tmp_path / "candidate.sh"
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return train_beside(several, candidate, print, Children())

    return run


def test_a_candidate_in_a_process_of_its_own_is_heard(
    beside: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """What it says is passed on; a refusal is its last line, a deadline is the night's, anything else an error."""
    assert beside("echo sft ran") is None
    assert capsys.readouterr().out == "sft ran\n"
    assert beside(f"echo a bar >&2; echo too steep >&2; exit {REFUSED}") == "too steep"
    with pytest.raises(DeadlineError, match="time is up"):
        beside(f"echo time is up >&2; exit {LATE}")
    with pytest.raises(RuntimeError, match="seed-1: out of memory"):
        beside("echo out of memory >&2; exit 1")


def test_no_process_of_a_candidate_outlives_its_night() -> None:
    """Those that run are ended, and so is one that starts too late."""
    from flows.trials import Children

    children, command = Children(), ["sleep", "600"]
    first, late = subprocess.Popen(command, text=True), None
    try:
        children.add(first)
        children.end()
        late = subprocess.Popen(command, text=True)
        children.add(late)
        assert [child.wait(timeout=60) for child in (first, late)] == [-signal.SIGTERM] * 2
    finally:
        for child in (first, late):
            if child is not None and child.poll() is None:
                child.kill()


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (ValueError("sft: no\nbetter"), REFUSED), (DeadlineError("time is up"), LATE)],
)
def test_the_process_of_a_candidate_says_how_it_ended(
    several: Paths,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception | None,
    code: int,
) -> None:
    """By its exit code, and by one line on standard error."""

    def train(paths: Paths, candidate: Candidate, say: Callable[[str], None]) -> None:
        say(candidate.name)
        if error:
            raise error

    monkeypatch.setattr(runner, "train", train)
    monkeypatch.setattr("tasks.environment.restart_tuned", lambda: None)
    assert main(["--candidate", str(several.root), "rloo"]) == code
    said = capsys.readouterr()
    assert said.out == "rloo\n"
    assert said.err == ("" if error is None else " ".join(str(error).splitlines()) + "\n")


def test_a_night_tells_the_trade_that_chose(
    several: Paths, prefect: None, traded: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """.7 and .72 − 5 · .01 are .685 in the mean, rloo's .8 and .82 − 5 · .05 are .56: told at the prompt, in the
    night's file and in MLflow.
    """
    from flows.night import night

    night(str(several.root))
    sentence = (
        "params.yaml chosen of 4 candidates on 2 dev prompts: win rate over SFT 0.700 by the judge, ROUGE-L +0.0000, "
        "0.700 + 5 × +0.0000 = 0.7000; means over seeds: params.yaml 0.6850, rloo 0.5600"
    )
    assert sentence in capsys.readouterr().out
    kept = standings.read(several)
    assert kept is not None
    assert (kept.winner, kept.rouge_weight, kept.sft_rouge) == (UNCHANGED, 5.0, 0.6)
    assert (kept.candidates[3].dev_win_rate, kept.candidates[3].dev_rouge) == (0.82, 0.55)
    client = mlflow_store.open_client(several)
    run_id = kept.candidates[3].run_id
    assert run_id is not None
    metrics = client.get_run(run_id).data.metrics
    assert metrics["held_out.rougeL_change"] == pytest.approx(-0.05)
    assert metrics["held_out.win_rate"] == 0.82


def test_seeds_of_variants_are_ordered_by_the_trade(
    several: Paths,
    toy_night: Callable[[], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each seed is measured by its first variant's judge and SFT; the table has the parts, the last line the order."""
    from flows import cli

    file = several.root / "params.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("night:\n", "night:\n  rouge_weight: 5.0\n"))
    variants = tmp_path / "variants.yaml"
    variants.write_text("far: {}\nnear: {policy: {kl: {coefficient: 0.3}}}\n")
    measured = []

    def score(paths: Paths, params: Params, trained: Mapping[str, Paths]) -> HeldOut:
        measured.append((paths.root.name, sorted(trained)))
        wins = {name: 0.75 if name.startswith("near") else 0.8 for name in trained}
        rouge = {name: 0.6 if name.startswith("near") else 0.58 for name in trained}
        return HeldOut("judge", {name: [wins[name] + 5 * (rouge[name] - 0.6)] * 2 for name in trained},
                       Trade(0.6, wins, rouge))  # fmt: skip

    monkeypatch.chdir(several.root)
    monkeypatch.setattr("tasks.environment.restart_tuned", lambda: None)
    monkeypatch.setattr(selection, "score", score)
    assert cli.main(["seeds", "3", "4", "--variants", str(variants)]) == 0
    assert measured == [(f"far-seed-{seed}", [f"far-seed-{seed}", f"near-seed-{seed}"]) for seed in (3, 4)]
    said = capsys.readouterr().out.splitlines()
    lines = {line[:24].strip(): line.split()[-6:] for line in said}
    assert lines["dev ROUGE-L over SFT's"] == ["-0.0200", "±", "0.0000", "0.0000", "±", "0.0000"]
    assert lines["held-out score"] == ["0.7000", "±", "0.0000", "0.7500", "±", "0.0000"]
    assert said[-1] == "held-out score on dev prompts, the best first: near 0.7500, far 0.7000"


def test_seeds_are_trained_aside_and_compared(
    several: Paths,
    toy_night: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A table of the figures, which are kept as JSON; no run, no version, nothing in the workspace's own data."""
    from flows import cli

    monkeypatch.chdir(several.root)
    monkeypatch.setattr("tasks.environment.restart_tuned", lambda: None)
    assert cli.main(["seeds", "3"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in said[: len(VERSIONED)]] == [[stage, "ran"] for stage in VERSIONED]
    head, wall, *lines, _, last = said[len(VERSIONED) + 1 :]
    assert head.split() == ["seed", "3", "median"]
    assert wall.startswith("wall time (s)")
    assert [line.split()[-4:] for line in lines] == [
        ["SFT", "ROUGE-L", "0.5000", "0.5000"],
        ["policy", "ROUGE-L", "0.6250", "0.6250"],
    ]
    assert last == "all figures: nights/seeds/figures.json"
    figures = json.loads((several.nights / "seeds" / "figures.json").read_text())[UNCHANGED]["3"]
    assert (figures["sft.rougeL"], figures["policy.rougeL"]) == (0.5, 0.625)
    assert toy_night() == []
    assert not several.mlruns.exists()
    assert git(several.root, "status", "--porcelain", "--untracked-files=no") == ""
    assert not (several.root / "dvc.lock").exists()


def test_a_promotion_alone_makes_nothing_due(
    toy: Path, prefect: None, toy_night: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The champion of the moment is brought by a night that has something to train; registering alone brings none."""
    from flows.night import night

    champions = iter(("first", "second"))

    def bring(paths: Paths, params: Params) -> None:
        (paths.champion / "config.json").write_text(next(champions))

    monkeypatch.setattr("tasks.registry.champion.check_out", bring)
    night(str(toy))
    assert toy_night() == list(STAGES)
    night(str(toy))
    assert (history.read(Paths(toy))[-1].outcome, toy_night()) == ("nothing new", [])
    with (toy / "params.yaml").open("a", encoding="utf-8") as file:
        file.write("register: {max_kl: 3.0}\n")
    night(str(toy))
    assert toy_night() == ["register"]
    (toy / "tasks" / "policy.py").write_text("# another line\n")
    night(str(toy))
    assert toy_night() == list(STAGES)[2:]
    assert (toy / "data" / "champion" / "config.json").read_text() == "second"


@pytest.fixture(scope="module")
def whole_night() -> ModuleType:
    """tests/flows/test_whole_night.py: its small params, and the command."""
    spec = spec_from_file_location("whole_night", Path(__file__).with_name("test_whole_night.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_real_night_trains_two_seeds_of_two_settings_two_at_a_time(
    clean_clone: Callable[[Path, str], Path], tmp_path: Path, whole_night: ModuleType
) -> None:
    """The winner is registered under the gate over seeds; what candidates share comes from the cache; DVC agrees."""
    root = clean_clone(tmp_path / "workspace", whole_night.SMALL)
    with (root / "params.yaml").open("a", encoding="utf-8") as file:
        file.write(SEVERAL + "  parallel: 2\n")
    printed = whole_night.nightjar(root, "flows", "run")
    paths = Paths(root)
    kept = standings.read(paths)
    assert kept is not None
    assert [row.name for row in kept.candidates] == NAMES
    assert kept.referee == "simulated annotator"
    assert kept.winner == selection.best(kept.candidates)
    assert len({row.policy for row in kept.candidates}) == 4
    said = [line.split() for line in printed.splitlines()]
    how = {(line[4], line[0]): line[1] for line in said if len(line) == 5 and line[0] in VERSIONED}
    assert [how["rloo", stage] for stage in VERSIONED] == ["restored"] * 7 + ["ran"] * 3
    assert [how["seed-1", stage] for stage in VERSIONED] == ["restored"] * 2 + ["ran"] * 8

    client = mlflow_store.open_client(paths)
    version = versions.get_policy(client, "nightjar", "challenger")
    assert version.tags["content"] == next(row.policy for row in kept.candidates if row.name == kept.winner)
    assert "2 seeds" in version.tags["gate.steady"]
    assert "up to date" in whole_night.nightjar(root, "dvc", "status")
    assert "nothing new" in whole_night.nightjar(root, "flows", "run")
