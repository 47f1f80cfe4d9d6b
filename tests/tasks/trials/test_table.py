"""Tables of candidates: over seeds for a line per figure, of a night for a row per candidate."""

from __future__ import annotations

import json
from pathlib import Path

from tasks.params.night import UNCHANGED
from tasks.trials import table
from tasks.trials.standings import Selection, Standing


def standings(figures: dict[str, dict[int, dict[str, float]]]) -> list[Standing]:
    """Candidates by variant and seed, with figures."""
    return [
        Standing(name=f"{variant}-{seed}", variant=variant, seed=seed, folder=".", figures=each)
        for variant, seeds in figures.items()
        for seed, each in seeds.items()
    ]


def test_one_variant_has_a_column_per_seed_the_median_and_the_mean() -> None:
    """Of 0.2, 0.9 and 0.4 the median is 0.4, the mean 0.5 and the deviation √.13; what no seed has is left out."""
    rows = standings({UNCHANGED: {seed: {"policy.gold": value} for seed, value in {3: 0.2, 5: 0.9, 7: 0.4}.items()}})
    lines = table.over_seeds(rows).splitlines()
    assert lines[0].split() == ["seed", "3", "seed", "5", "seed", "7", "median", "mean"]
    assert lines[1].split()[-7:] == ["0.200", "0.900", "0.400", "0.400", "0.500", "±", "0.361"]
    assert len(lines) == 2


def test_a_figure_that_one_seed_lacks_leaves_its_cell_empty() -> None:
    """The others stay below their seeds, and the median is over them: of 10 and 20 it is 15."""
    rows = standings({UNCHANGED: {0: {"wall_s": 10.0}, 1: {}, 2: {"wall_s": 20.0}}})
    head, line = table.over_seeds(rows).splitlines()
    ends = [head.index(name) + len(name) for name in ("seed 0", "seed 1", "seed 2", "median")]
    cells = [line[end - 10 : end].strip() for end in ends]
    assert cells == ["10.0", "", "20.0", "15.0"]


def test_variants_have_a_column_each_with_mean_and_deviation() -> None:
    """Of 1 and 2 the mean is 1.5 and the deviation √½; a variant without a figure leaves its cell empty."""
    rows = standings({"full": {0: {"policy.gold": 1.0}, 1: {"policy.gold": 2.0}}, "lora": {0: {}, 1: {}}})
    lines = table.over_seeds(rows).splitlines()
    assert lines[0].split() == ["full", "lora"]
    assert lines[1].split()[-3:] == ["1.500", "±", "0.707"]


def test_one_seed_of_several_variants_has_no_deviation() -> None:
    """Its values alone."""
    rows = standings({"full": {0: {"policy.gold": 1.0}}, "lora": {0: {"policy.gold": 0.25}}})
    assert table.over_seeds(rows).splitlines()[1].split()[-2:] == ["1.000", "0.250"]


def test_every_figure_is_saved_by_variant_and_seed(tmp_path: Path) -> None:
    """Also those that the table has no line for."""
    figures = {"full": {0: {"policy.gold": 1.0, "odd": 2.0}, 1: {"policy.gold": 3.0}}}
    table.save(tmp_path / "figures.json", standings(figures))
    saved = json.loads((tmp_path / "figures.json").read_text())
    assert saved == {"full": {"0": {"policy.gold": 1.0, "odd": 2.0}, "1": {"policy.gold": 3.0}}}


def test_a_night_has_a_row_per_candidate_the_best_first() -> None:
    """What it was chosen by, what its evaluation measured, and what becomes of it; of equals the first stays first."""
    figures = {"win_rate": 0.8, "win_rate_low": 0.75, "win_rate_high": 0.85, "policy.kl": 2.0, "policy.rougeL": 0.5}
    rows = [
        Standing(name=name, variant=name, seed=None, folder=".", **more)  # type: ignore[arg-type]
        for name, more in {
            "a": {"error": "no"},
            "b": {"score": 0.25, "standard_error": 0.5},
            "c": {"score": 1.0, "standard_error": 0.125, "figures": figures},
            "d": {"score": 0.25, "standard_error": 0.5},
        }.items()
    ]
    nothing = {"held-out score": "0.2500 ± 0.5000", "win rate over SFT": "", "KL": "", "ROUGE-L": "", "": ""}
    assert table.of_night(Selection(key="", winner="c", referee="judge", prompts=2, candidates=rows)) == [
        {
            "candidate": "c",
            "held-out score": "1.0000 ± 0.1250",
            "win rate over SFT": "0.800 [0.750, 0.850]",
            "KL": "2.00",
            "ROUGE-L": "0.5000",
            "": "goes on",
        },
        {"candidate": "b", **nothing},
        {"candidate": "d", **nothing},
        {"candidate": "a", **nothing, "held-out score": "", "": "no"},
    ]


def traded(name: str, variant: str, score: float, rate: float, rouge: float) -> Standing:
    """A candidate of a trade."""
    parts = {"score": score, "standard_error": 0.01, "dev_win_rate": rate, "dev_rouge": rouge}
    return Standing(name=name, variant=variant, seed=None, folder=".", **parts)


def test_a_trade_shows_its_parts_and_says_why_it_chose() -> None:
    """.74 + 5 · (.6650 − .6712) = .709; the settings' means are .7045 and .6, beside each of their seeds."""
    rows = [
        traded(UNCHANGED, UNCHANGED, 0.6, 0.8, 0.6312),
        traded("near", "near", 0.709, 0.74, 0.6650),
        traded("near-seed-1", "near", 0.7, 0.731, 0.6650),
    ]
    selected = Selection(
        key="", winner="near", referee="judge", prompts=434, rouge_weight=5.0, sft_rouge=0.6712, candidates=rows
    )
    first, second, third = table.of_night(selected)
    assert [row["candidate"] for row in (first, second, third)] == ["near", "near-seed-1", UNCHANGED]
    assert (first["dev win rate over SFT"], first["dev ROUGE-L"], first["mean over seeds"]) == (
        "0.740",
        "0.6650",
        "0.7045",
    )
    assert third["mean over seeds"] == "0.6000"
    assert table.choice(selected, rows[1]) == (
        "near chosen of 3 candidates on 434 dev prompts: win rate over SFT 0.740 by the judge, ROUGE-L -0.0062, "
        "0.740 + 5 × -0.0062 = 0.7090; means over seeds: near 0.7045, params.yaml 0.6000"
    )
    assert table.best_settings(rows) == [
        "held-out score on dev prompts, the best first: near 0.7045, params.yaml 0.6000"
    ]


def test_without_a_trade_nothing_more_is_told() -> None:
    """Neither columns nor a sentence."""
    rows = [Standing(name="a", variant="a", seed=None, folder=".", score=0.5, standard_error=0.1)]
    selected = Selection(key="", winner="a", referee="judge", prompts=2, candidates=rows)
    assert table.choice(selected, rows[0]) is None
    assert "dev ROUGE-L" not in table.of_night(selected)[0]
    assert table.best_settings(rows) == []
