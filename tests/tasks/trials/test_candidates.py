"""Candidates, enumerated: who they are in a night and aside from one, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.settings.adapters import AdapterSettings
from tasks.params.night import UNCHANGED
from tasks.params.whole import read_params
from tasks.paths import Paths
from tasks.trials.candidates import SEEDED, Candidate, read_checked, read_trials


def test_every_variant_is_trained_with_every_seed(several: Paths, named: dict[str, Candidate]) -> None:
    """A further seed goes to what learns and samples and not to the data; a variant changes what it says."""
    text = (several.root / "params.yaml").read_text()
    assert list(named) == [UNCHANGED, "seed-1", "rloo", "rloo-seed-1"]
    assert named[UNCHANGED].text == text
    both = named["rloo-seed-1"].params
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


@pytest.fixture
def variants(tmp_path: Path) -> Path:
    """A file of three variants."""
    file = tmp_path / "variants.yaml"
    text = "ppo, full: {}\nlora: {policy: {adapter: {rank: 4}}}\nshort: {sft: {steps: 7}}\n"
    file.write_text(text, encoding="utf-8")
    return file


def test_aside_from_nights_a_seed_reaches_every_section_that_has_one(repository: Path) -> None:
    """The data's too, and nothing else changes."""
    file = repository / "presets" / "tiny.yaml"
    params, [seeded] = read_params(file), read_trials(file, [42])
    assert SEEDED == ("ingest", "validate", "sft", "rollouts", "rank", "pairs", "reward", "policy", "evaluate")
    for name in SEEDED:
        assert seeded.params.section(name).model_dump()["seed"] == 42, name
        assert seeded.params.section(name).model_copy(update={"seed": 0}) == params.section(name), name
    assert seeded.params.model == params.model
    assert (seeded.name, seeded.variant, seeded.seed) == ("seed-42", UNCHANGED, 42)


def test_aside_from_nights_every_variant_has_every_seed(repository: Path, variants: Path) -> None:
    """Each is params.yaml with its own changes, and its name is a folder's whatever the variant is called."""
    file = repository / "presets" / "tiny.yaml"
    trials = {row.name: row for row in read_trials(file, [0, 1], variants)}
    assert list(trials) == [
        *("ppo-full-seed-0", "ppo-full-seed-1", "lora-seed-0", "lora-seed-1", "short-seed-0", "short-seed-1")
    ]
    full, lora, short = (trials[f"{name}-seed-1"] for name in ("ppo-full", "lora", "short"))
    assert full.variant == "ppo, full"
    assert lora.params.policy.adapter == AdapterSettings(rank=4)
    assert lora.params.policy.iterations == full.params.policy.iterations
    assert (short.params.sft.steps, short.params.sft.seed) == (7, 1)
    assert short.params.policy == full.params.policy


def test_candidates_of_a_night_have_no_part_in_a_comparison_aside(several: Paths) -> None:
    """params.yaml may name more seeds and variants for its nights: they are not tried, and each has a text to read."""
    [trial] = read_trials(several.root / "params.yaml", [5])
    (several.root / "params.yaml").write_text(trial.text)
    assert read_params(several.root / "params.yaml") == trial.params
    assert (trial.params.night.cron, trial.params.night.seeds, trial.params.night.variants) == ("0 3 * * *", [], {})


@pytest.mark.parametrize(
    ("seeds", "text", "message"),
    [
        ([0], "odd: {policy: {iteration: 3}}", r"variants.yaml: odd: policy.iteration"),
        ([0], "a: {}\nb: {policy: {}}", r"variants.yaml: b-seed-0 would train the same as a-seed-0"),
        ([3, 3], "a: {}", r"variants.yaml: a-seed-3 would train the same as a-seed-3"),
        ([0], "a b: {}\na,b: {sft: {steps: 7}}", r"a-b-seed-0 would .* a-b-seed-0, or is called the same"),
    ],
)
def test_variants_that_cannot_be_compared_are_named(
    repository: Path, variants: Path, seeds: list[int], text: str, message: str
) -> None:
    """The file, the variant and the param are in the error."""
    variants.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_trials(repository / "presets" / "tiny.yaml", seeds, variants)


def test_a_file_of_variants_that_is_not_there_is_asked_for(repository: Path, tmp_path: Path) -> None:
    """The error says what the file is."""
    with pytest.raises(FileNotFoundError, match=r"absent.yaml: no such file; give YAML that names variants"):
        read_trials(repository / "presets" / "tiny.yaml", [0], tmp_path / "absent.yaml")
