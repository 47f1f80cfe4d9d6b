"""What became of candidates: how long a selection holds, and what the seeds of a policy say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tasks.files import write_json, write_rows
from tasks.params.night import UNCHANGED
from tasks.params.register import RegisterParams
from tasks.params.whole import read_params
from tasks.paths import Paths
from tasks.registry import gates
from tasks.trials import standings, workspaces
from tasks.trials.candidates import Candidate, read_candidates
from tasks.trials.standings import Seeds, Selection, Standing


def standing(name: str, variant: str = UNCHANGED, score: float | None = 0.5, **more: object) -> Standing:
    """A candidate after a night."""
    folder = "." if name == UNCHANGED else f"nights/candidates/{name}"
    return Standing(name=name, variant=variant, seed=None, folder=folder, score=score, **more)


def keep(paths: Paths, winner: str, rows: list[Standing]) -> None:
    """Keeps a selection of the workspace as it is."""
    key = standings.key(paths, read_candidates(paths.root / "params.yaml"))
    standings.write(paths, Selection(key=key, winner=winner, referee="judge", prompts=2, candidates=rows))


def test_a_selection_holds_until_params_code_or_data_change(several: Paths, named: dict[str, Candidate]) -> None:
    """What surrounds a night changes nothing; dvc.lock speaks for code and data; a lost winner is sought again."""
    file = several.root / "params.yaml"
    (several.root / "dvc.lock").write_text("as trained")
    workspace = several.workspace_of("rloo")
    workspaces.prepare(several, workspace, named["rloo"])
    (workspace.models / "policy").mkdir(parents=True)
    keep(several, "rloo", [standing(UNCHANGED), standing("rloo", "rloo")])

    def holds() -> bool:
        return standings.settled(several, read_params(file)) is not None

    assert holds()
    assert standings.chosen(several, read_params(file)) == (workspace, read_params(workspace.root / "params.yaml"))
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
    shutil.rmtree(workspace.root)
    assert not holds()


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
    keep(several, UNCHANGED, rows)
    assert standings.seeds_of(several) == Seeds(2, (0.7, 0.6))
    keep(several, UNCHANGED, [rows[0], standing("seed-1", score=None, error="no")])
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


def test_another_weight_of_rouge_chooses_anew(several: Paths) -> None:
    """What was trained stays; without a weight the digest is as ever."""
    file = several.root / "params.yaml"
    (several.root / "dvc.lock").write_text("as trained")
    keys, text = [], file.read_text()
    for weight in ("null", "0.0", "5.0"):
        file.write_text(text.replace("night:", f"night:\n  rouge_weight: {weight}"))
        keys.append(standings.key(several, read_candidates(file)))
    file.write_text(text)
    assert standings.key(several, read_candidates(file)) == keys[0]
    assert len(set(keys)) == 3


def test_who_passes_the_gates_alone_would_be_promoted(tmp_path: Path) -> None:
    """ROUGE-L may fall by .02, people's pairs know the judge, and the monitor may not have warned."""
    paths, figures = Paths(tmp_path), {"win_rate": 0.7, "win_rate_low": 0.6, "win_rate_high": 0.8, "policy.kl": 1.0}
    figures |= {"sft.rougeL": 0.60, "policy.rougeL": 0.59}
    write_json(paths.evaluation / "scores.json", {"sampling": {"referee": "judge"}})
    write_rows(paths.rankings, [{"annotator": "ana"}])
    for low, passed in ((0.55, True), (0.45, False)):
        write_json(
            paths.metrics("reward"), {"judge.accuracy": 0.6, "judge.accuracy_low": low, "judge.accuracy_high": 0.7}
        )
        assert standings.passes_gates(paths, RegisterParams(), figures) is passed
    write_json(paths.evaluation / "scores.json", {"sampling": {"referee": "gold"}})
    assert standings.passes_gates(paths, RegisterParams(), figures)
    assert not standings.passes_gates(paths, RegisterParams(), figures | {"policy.rougeL": 0.57})
    readings = [{"iteration": 4, "warnings": ["grows long"]}]
    write_json(paths.models / "policy" / "monitor.json", {"kept_iteration": 4, "readings": readings})
    assert not standings.passes_gates(paths, RegisterParams(), figures)
