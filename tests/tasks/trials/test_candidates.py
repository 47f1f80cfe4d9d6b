"""Candidates of a night: who they are, the workspaces they get, and how they are kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import deadline, runner
from tasks.files import write_json
from tasks.params.night import UNCHANGED
from tasks.params.register import RegisterParams
from tasks.params.whole import Params, read_params
from tasks.paths import Paths
from tasks.registry import gates
from tasks.stages import VERSIONED
from tasks.tracking import tracker
from tasks.trials import selection, standings
from tasks.trials.candidates import Candidate, read_candidates, read_checked
from tasks.trials.standings import Contest, Seeds, Standing

SEVERAL = (
    "night:\n  cron: 0 3 * * *\n  seeds: [1]\n  variants:\n    rloo: {policy: {algorithm: rloo, completions: 4}}\n"
)


@pytest.fixture
def several(toy: Path) -> Paths:
    """The toy with two seeds of two settings."""
    with (toy / "params.yaml").open("a", encoding="utf-8") as file:
        file.write(SEVERAL)
    return Paths(toy)


def field(paths: Paths) -> dict[str, Candidate]:
    """The candidates by name."""
    return {row.name: row for row in read_candidates(paths.root / "params.yaml")}


def test_every_variant_is_trained_with_every_seed(several: Paths) -> None:
    """A further seed goes to what learns and samples and not to the data; a variant changes what it says."""
    text = (several.root / "params.yaml").read_text()
    found = field(several)
    assert list(found) == [UNCHANGED, "seed-1", "rloo", "rloo-seed-1"]
    assert found[UNCHANGED].text == text
    both = found["rloo-seed-1"].params
    assert (both.policy.algorithm, both.policy.completions, both.policy.prompts_per_iteration) == ("rloo", 4, 1)
    assert [both.section(name).model_dump()["seed"] for name in ("sft", "rollouts", "reward", "policy")] == [1] * 4
    assert (both.ingest.seed, both.validate_.seed, both.evaluate.seed) == (1, 0, 0)
    assert (both.night.cron, both.night.seeds, both.night.variants) == ("0 3 * * *", [], {})


@pytest.mark.parametrize(
    ("night", "message"),
    [
        ("variants: {a: {policy: {iteration: 3}}}", r"night.variants: a: policy.iteration: Extra inputs"),
        ("variants: {a: {evaluate: {samples: 9}}}", r"a changes evaluate, but all candidates of a night learn from"),
        ("variants: {a/b: {policy: {clip: 0.1}}}", r"'a/b' cannot name a folder of its own"),
        ("variants: {a: {policy: {clip: 0.2}}}", r"a would train the same as params.yaml"),
        (
            "variants: {seed-1: {policy: {clip: 0.1}}}\n  seeds: [1]",
            r"seed-1 would train the same as seed-1, or is called",
        ),
        ("seeds: [0]", r"seed-0 would train the same as params.yaml"),
        ("seeds: [3, 3]", r"seed-3 would train the same as seed-3"),
    ],
)
def test_variants_that_cannot_compete_are_refused_when_params_are_read(toy: Path, night: str, message: str) -> None:
    """Before anything runs, naming the variant and what is wrong."""
    with (toy / "params.yaml").open("a", encoding="utf-8") as file:
        file.write(f"night:\n  {night}\n")
    with pytest.raises(ValueError, match=message):
        read_checked(toy / "params.yaml")


def test_a_workspace_has_the_code_the_data_and_params_of_its_own(several: Paths) -> None:
    """Also what is not committed; what was deleted goes, what was trained stays, and the sources cost no space."""
    (several.source / "mine.jsonl").write_text("{}\n")
    (several.root / "tasks" / "fresh.py").write_text("# not committed\n")
    seed = field(several)["seed-1"]
    place = standings.prepare(several, seed)
    assert (place.home, place.mlruns, place.nights) == (several.root, several.mlruns, several.nights)
    assert read_params(place.root / "params.yaml") == seed.params
    assert (place.root / "tasks" / "fresh.py").is_file()
    assert os.path.samefile(place.source / "mine.jsonl", several.source / "mine.jsonl")
    assert not (place.root / ".git").exists()
    (place.root / "dvc.lock").write_text("kept")
    (several.root / "tasks" / "fresh.py").unlink()
    (several.source / "mine.jsonl").unlink()
    (several.root / "tasks" / "sft.py").write_text("# changed\n")
    standings.prepare(several, seed)
    assert not (place.root / "tasks" / "fresh.py").exists()
    assert not (place.source / "mine.jsonl").exists()
    assert (place.root / "tasks" / "sft.py").read_text() == "# changed\n"
    assert (place.root / "dvc.lock").read_text() == "kept"


def test_a_workspace_without_git_has_what_the_stages_need(several: Paths) -> None:
    """The graph, DVC's settings and the code of the stages."""
    shutil.rmtree(several.root / ".git")
    (several.root / "notes.txt").write_text("mine")
    place = standings.prepare(several, field(several)["seed-1"])
    for name in (
        "dvc.yaml",
        ".dvcignore",
        ".dvc/config",
        "tasks/sft.py",
        "tasks/params/rank.py",
        "data/source/README.md",
    ):
        assert (place.root / name).is_file(), name
    assert not (place.root / "notes.txt").exists()


def test_workspaces_of_candidates_that_are_none_any_more_go(several: Paths) -> None:
    """A seed that params.yaml no longer names leaves nothing behind."""
    found = list(field(several).values())
    places = [standings.prepare(several, row).root for row in found[1:]]
    standings.tidy(several, found[:2])
    assert [place.exists() for place in places] == [True, False, False]


@pytest.mark.parametrize("versioned", [True, False], ids=["git", "no git"])
def test_what_candidates_have_in_common_is_trained_once(
    several: Paths,
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
    params, found, said = read_params(several.root / "params.yaml"), field(several), []
    with tracker.night(several, params, "flow"):
        for stage in VERSIONED:
            runner.bring_up_to_date(stage, several, params)
        for name in ("seed-1", "rloo-seed-1"):
            runner.train(several, found[name], said.append)
    by = {place: [stage for root, stage in ran if root == place] for place, _ in ran}
    assert by == {
        several.root: list(VERSIONED),
        several.workspace_of("seed-1").root: list(VERSIONED[2:]),
        several.workspace_of("rloo-seed-1").root: ["policy", "evaluate"],
    }
    assert [line.split()[:2] for line in said[:3]] == [["ingest", "restored"], ["validate", "restored"], ["sft", "ran"]]
    ours, theirs = (place.models / "sft" / "rows.jsonl" for place in (several, several.workspace_of("seed-1")))
    assert ours.read_text() != theirs.read_text()


def test_a_candidate_past_the_deadline_ends_and_the_next_night_goes_on_from_there(
    several: Paths, toy_night: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No stage starts after it, and those that had ended are kept."""
    seed, said, run_stage = field(several)["seed-1"], [], runner.run_stage

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


def standing(name: str, variant: str = UNCHANGED, score: float | None = 0.5, **more: object) -> Standing:
    """A candidate after a night."""
    folder = "." if name == UNCHANGED else f"nights/candidates/{name}"
    return Standing(name=name, variant=variant, seed=None, folder=folder, score=score, **more)  # type: ignore[arg-type]


def kept(paths: Paths, winner: str, standings: list[Standing]) -> None:
    """Keeps a contest of the workspace as it is."""
    key = standings.key(paths, read_candidates(paths.root / "params.yaml"))
    standings.write(paths, Contest(key=key, winner=winner, referee="judge", prompts=2, candidates=standings))


def test_a_contest_holds_until_params_code_or_data_change(several: Paths) -> None:
    """What surrounds a night changes nothing; dvc.lock speaks for code and data; a lost winner is sought again."""
    file = several.root / "params.yaml"
    (several.root / "dvc.lock").write_text("as trained")
    place = standings.prepare(several, field(several)["rloo"])
    (place.models / "policy").mkdir(parents=True)
    kept(several, "rloo", [standing(UNCHANGED), standing("rloo", "rloo")])

    def holds() -> bool:
        return standings.settled(several, read_params(file)) is not None

    assert holds()
    assert standings.chosen(several, read_params(file)) == (place, read_params(place.root / "params.yaml"))
    text = file.read_text()
    file.write_text(text.replace("0 3 *", "0 4 *"))
    assert holds()
    file.write_text(text.replace("completions: 4", "completions: 2"))
    assert not holds()
    assert standings.chosen(several, read_params(file)) == (several, read_params(file))
    file.write_text(text)
    (several.root / "dvc.lock").write_text("of other code")
    assert not holds()
    (several.root / "dvc.lock").write_text("as trained")
    assert holds()
    shutil.rmtree(place.root)
    assert not holds()


def test_the_best_held_out_score_wins_and_of_equals_the_first() -> None:
    """A candidate that was not trained to the end has none."""
    rows = [standing("a", score=0.4), standing("b", score=None), standing("c", score=0.7), standing("d", score=0.7)]
    assert selection.best(rows) == "c"


def test_the_seeds_of_a_policy_are_those_of_its_settings(several: Paths) -> None:
    """Other variants do not count, one that failed counts as 0, and the policy must be the very one that competed."""
    from tasks import digests

    write_json(several.models / "policy" / "weights.json", {"w": 1})
    content = digests.digest(several.models / "policy")
    (several.root / "dvc.lock").write_text("as trained")
    assert standings.seeds_of(several) == Seeds(2, ())
    rows = [
        standing(UNCHANGED, policy=content, figures={"win_rate_low": 0.7}),
        standing("seed-1", figures={"win_rate_low": 0.6}),
        standing("rloo", "rloo", figures={"win_rate_low": 0.9}),
    ]
    kept(several, UNCHANGED, rows)
    assert standings.seeds_of(several) == Seeds(2, (0.7, 0.6))
    kept(several, UNCHANGED, [rows[0], standing("seed-1", score=None, error="no")])
    assert standings.seeds_of(several) == Seeds(2, (0.7, 0.0))
    write_json(several.models / "policy" / "weights.json", {"w": 2})
    assert standings.seeds_of(several) == Seeds(2, ())


@pytest.mark.parametrize(
    ("wanted", "lows", "passed", "text"),
    [
        (1, (), True, "one seed: steady over prompts, not known to be over seeds"),
        (2, (), False, "one seed of the 2 that night.seeds asks for; train and compare the others: nightjar run"),
        (2, (0.7, 0.6), True, "lower bound over SFT 0.600 at the middle of 2 seeds above 0.5"),
        (2, (0.9, 0.4), False, "lower bound over SFT 0.400 at the middle of 2 seeds not above 0.5"),
        (3, (0.9, 0.4, 0.6), True, "lower bound over SFT 0.600 at the middle of 3 seeds above 0.5"),
        (3, (0.9, 0.4, 0.5), False, "lower bound over SFT 0.500 at the middle of 3 seeds not above 0.5"),
    ],
)
def test_a_lucky_seed_passes_no_gate(wanted: int, lows: tuple[float, ...], passed: bool, text: str) -> None:
    """The middle seed must win too: of two the worse, of three the second."""
    found = gates.judge_seeds(wanted, lows, RegisterParams(min_win_rate_low=0.5))
    assert found == ("steady", passed, text)
