"""What became of candidates: how long a selection holds, and what the seeds of a policy say."""

from __future__ import annotations

import shutil

import pytest

from tasks.files import write_json
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
