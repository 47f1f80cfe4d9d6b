"""Two nights beside each other: what is found in MLflow, what differs, and how it is told."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tasks.comparison import as_page, as_text, compare, results
from tasks.comparison.compare import contrast
from tasks.comparison.results import Result
from tasks.figures import FIGURES
from tasks.files import write_json, write_rows
from tasks.params.whole import Params
from tasks.paths import Paths
from tasks.registry import versions
from tasks.tracking import mlflow_store, tracker

SCORES = {"evaluate.policy.gold": 0.5, "evaluate.policy.bleu": 20.0, "evaluate.policy.kl": 2.0}
WINS = {"evaluate.win_rate": 0.6, "evaluate.win_rate_low": 0.5, "evaluate.win_rate_high": 0.7}


def side(name: str, gold: dict[str, list[float]], reward_model: str = "aaa", **params: str) -> Result:
    """A night whose policy has these gold scores by prompt; its reward model says twice as much."""
    samples: list[dict[str, Any]] = []
    completions: list[dict[str, Any]] = []
    for prompt, values in gold.items():
        grid = {"gold": values, "reward": [2 * value for value in values]}
        row = {"id": prompt, "prompt": f"prompt {prompt}", "references": ["one red fox"]}
        nothing = {"texts": ["x"] * len(values), "scores": {scorer: [0.0] * len(values) for scorer in grid}}
        samples.append(row | {"sft": nothing, "policy": {"texts": ["y"] * len(values), "scores": grid}})
        text = f"{name} on {prompt}" if values[0] else "one red fox"
        completions.append(row | {"policy": text, "policy_gold": values[0], "policy_reward": 2 * values[0]})
    return Result(
        name,
        "promoted",
        "abc",
        params,
        SCORES | WINS,
        {"data/raw": "1"},
        {"reward": reward_model},
        samples,
        completions,
    )


def test_a_difference_is_paired_on_the_prompts_that_both_have() -> None:
    """Prompts b and c are in both: 1 - 0 and 4 - 3 (the means over samples), so the difference is 1 without doubt."""
    first, second = (
        side("A", {"a": [9.0, 9.0], "b": [0.0, 0.0], "c": [2.0, 4.0]}),
        side("B", {"b": [1.0, 1.0], "c": [3.0, 5.0]}),
    )
    found = compare.compare(first, second)
    gold = next(row for row in found.figures if row.name == "policy gold")
    assert isinstance(gold.first, tuple)
    assert isinstance(gold.second, tuple)
    assert (gold.first[0], gold.second[0]) == (4.0, 2.5)
    assert gold.difference == (1.0, 1.0, 1.0)
    assert found.shared == 2
    assert as_text.is_clear(gold)


def test_without_shared_prompts_each_side_is_resampled_by_itself() -> None:
    """The difference is that of the means, and its interval knows that both might have been others."""
    found = contrast("x", FIGURES["gold"], {("a", ""): 0.0, ("b", ""): 2.0}, {("c", ""): 1.0, ("d", ""): 5.0})
    assert found.difference is not None
    assert found.difference == (2.0, -1.0, 5.0)
    assert not as_text.is_clear(found)


def test_scores_of_two_reward_models_are_not_subtracted() -> None:
    """They are shown beside each other; those of one reward model are, and gold always is."""
    gold = {"a": [1.0], "b": [2.0]}
    for model, there in (("aaa", True), ("bbb", False)):
        found = {row.name: row for row in compare.compare(side("A", gold), side("B", gold, model)).figures}
        assert found["policy reward"].first == found["policy reward"].second != None  # noqa: E711
        assert (found["policy reward"].difference is not None) is there
        assert found["policy gold"].difference == (0.0, 0.0, 0.0)
    unknown = replace(side("A", gold), scorers={})
    found = {row.name: row for row in compare.compare(unknown, unknown).figures}
    assert found["policy reward"].difference is None


def test_the_second_policy_wins_over_the_first_by_the_referees_samples() -> None:
    """Of prompt a's 2·2 meetings it wins 3 and ties 1, of b's it wins none: (3.5 / 4 + 0) / 2."""
    first, second = side("A", {"a": [0.0, 1.0], "b": [5.0, 5.0]}), side("B", {"a": [1.0, 2.0], "b": [0.0, 1.0]})
    found = compare.compare(first, second)
    assert found.wins is not None
    assert found.wins.value == pytest.approx(3.5 / 8)


def test_two_judges_do_not_decide_between_two_nights() -> None:
    """Where the nights share no referee, or each has a judge of its own, nobody says which policy wins."""
    gold = {"a": [1.0, 2.0], "b": [2.0, 3.0]}

    def judged(night: Result, judge: str) -> Result:
        text = json.dumps([night.samples, night.completions]).replace("gold", "judge")
        samples, completions = json.loads(text)
        return replace(night, samples=samples, completions=completions, scorers={"reward": "aaa", "judge": judge})

    one, same, other = (judged(side("A", gold), judge) for judge in ("x", "x", "y"))
    found = compare.compare(one, same)
    assert found.wins is not None
    assert (found.referee, found.wins.value) == ("judge", 0.5)
    assert compare.compare(one, other).wins is None
    assert {row.name: row for row in compare.compare(one, other).figures}["win rate over SFT"].difference is None
    mixed = compare.compare(one, side("B", gold))
    assert mixed.referee == "reward"
    assert {row.name: row for row in mixed.figures}["win rate over SFT"].difference is None


def test_completions_that_the_referee_tells_apart_most_come_first() -> None:
    """Equal completions are not shown, however far other samples lie apart."""
    first = side("A", {"a": [1.0], "b": [5.0], "c": [0.0], "d": [1.0]})
    second = side("B", {"a": [2.0], "b": [1.0], "c": [0.0], "e": [7.0]})
    texts = compare.compare(first, second).texts
    assert [(row.prompt, row.first_score, row.second_score) for row in texts] == [
        ("prompt b", 5.0, 1.0),
        ("prompt a", 1.0, 2.0),
    ]
    assert (texts[0].first, texts[0].second) == ("A on b", "B on b")


def test_params_and_data_that_differ_are_named_and_no_others() -> None:
    """One that is missing on a side is None there."""
    gold = {"a": [1.0]}
    first = side("A", gold, **{"sft.steps": "3", "policy.seed": "0", "policy.old": "1"})
    second = replace(side("B", gold, **{"sft.steps": "4", "policy.seed": "0"}), data={"data/raw": "2"})
    found = compare.compare(first, second)
    assert found.params == {"policy.old": ("1", None), "sft.steps": ("3", "4")}
    assert found.data == ["data/raw"]


def test_texts_are_scored_by_prompt() -> None:
    """ROUGE of the likeliest completions: the reference itself is 1, nothing in common 0; words are counted."""
    found = {row.name: row for row in compare.compare(side("A", {"a": [0.0]}), side("B", {"a": [1.0]})).figures}
    assert found["ROUGE-L"].first == (1.0, 1.0, 1.0)
    assert found["ROUGE-L"].second == (0.0, 0.0, 0.0)
    assert found["ROUGE-L"].difference == (-1.0, -1.0, -1.0)
    assert found["length (words)"].second == (3.0, 3.0, 3.0)
    assert found["BLEU"].difference == 0.0


@pytest.fixture
def printed() -> Callable[..., str]:
    """Shows a comparison on a console of 100 columns and returns what stands there."""

    def show(first: Result, second: Result, rows: int = 5) -> str:
        screen = Console(file=io.StringIO(), width=100, highlight=False)
        as_text.show(compare.compare(first, second), rows, screen)
        assert isinstance(screen.file, io.StringIO)
        return screen.file.getvalue()

    return show


def test_the_terminal_shows_it_all_whatever_the_texts_hold(printed: Callable[..., str]) -> None:
    """Params, figures with intervals, the win rate and the completions; what looks like markup stays as it is."""
    first, second = side("A", {"a": [1.0]}, **{"sft.name": "[bold]"}), side("B", {"a": [2.0]})
    odd = [row | {"policy": "[red]text[/red]"} for row in second.completions]
    text = printed(first, replace(second, completions=odd))
    for wanted in (
        "A  A: promoted, 1 test prompts, code abc",
        "[bold]",
        "+1.000 [+1.000, +1.000]",
        "0.600 [0.500, 0.700]",
        "paired on the 1 test prompts",
        "Policy B over policy A: win rate 1.000 [0.000, 1.000], judged by gold",
        "prompt a",
        "[red]text[/red]",
    ):
        assert wanted in text, wanted
    assert "A on a" not in printed(first, second, 0)


def test_control_characters_are_shown(printed: Callable[..., str]) -> None:
    """Of a completion, in the terminal and on the page."""
    first, second = side("A", {"a": [1.0]}), side("B", {"a": [2.0]})
    second = replace(second, completions=[row | {"policy": "x\x1b[2Jy\rz"} for row in second.completions])
    for shown in (printed(first, second), as_page.page(compare.compare(first, second))):
        assert r"x\x1b[2Jy\rz" in shown
        assert "\x1b" not in shown


def test_the_page_shows_every_prompt_with_its_texts_escaped() -> None:
    """It needs no other file, and sorts by who gained."""
    first, second = side("A", {"a": [1.0], "b": [1.0]}), side("B", {"a": [2.0], "b": [3.0]})
    odd = [row | {"policy": "<script>"} for row in second.completions]
    page = as_page.page(compare.compare(first, replace(second, completions=odd)))
    assert page.count("&lt;script&gt;") == 2
    assert page.count('data-gain="') == 2
    assert 'data-gain="2.000000"' in page
    assert "0.600 [0.500, 0.700]" in page
    assert not re.findall(r"(?:src|href)=", page)


@pytest.fixture
def nights(tracked: Paths, tracked_params: Params) -> dict[str, str]:
    """Three nights in MLflow, by name: two that evaluated, one that failed before; the run of each one's evaluate."""
    found = {}
    for day, gold in ((20, 0.5), (21, 0.75)):
        name = f"night-2026-11-{day}-0200"
        with tracker.night(tracked, tracked_params, "flow", name=name):
            with tracker.stage("sft", tracked, tracked_params) as run:
                run.log({"eval_loss": 1.5})
            texts, grid = ["x", "y"], {"gold": [gold, gold], "reward": [1.0, 2.0]}
            row = {"id": "1", "prompt": "p", "references": ["r"]}
            write_rows(
                tracked.evaluation / "samples.jsonl",
                [row | {model: {"texts": texts, "scores": grid} for model in ("sft", "policy")}],
            )
            write_rows(tracked.evaluation / "completions.jsonl", [row | {"policy": f"{day}", "policy_gold": gold}])
            write_json(tracked.evaluation / "scores.json", {})
            digests = {"data/models/reward": "abc", "data/validated/test": f"{day}", "data/pairs/train.jsonl": "x"}
            with tracker.stage("evaluate", tracked, tracked_params, inputs=digests) as run:
                run.log({"policy.gold": gold, "win_rate": 0.5})
            found[name] = run.run_id
    with pytest.raises(ValueError, match="oops"), tracker.night(tracked, tracked_params, "flow", name="night-2026-12"):
        raise ValueError("oops")
    return found


def test_a_night_is_found_by_all_its_names(tracked: Paths, nights: dict[str, str]) -> None:
    """Its name, the beginning of it with or without `night-`, last, its run's id and that of one of its stages."""
    client = mlflow_store.open_client(tracked)
    ids = {run.info.run_name: run.info.run_id for run in mlflow_store.find_nights(client, tracked, "night-")}
    wanted = "night-2026-11-21-0200"
    for name in (wanted, "2026-11-21", "night-2026-11-21", "last", ids[wanted], nights[wanted]):
        found = results.find(tracked, name, "nightjar")
        assert (found.name, found.metrics["evaluate.policy.gold"]) == (wanted, 0.75), name
    assert found.metrics["sft.eval_loss"] == 1.5
    assert found.params["policy.iterations"] == "1"
    assert found.data == {"data/validated/test": "21"}
    assert found.scorers == {"reward": "abc"}
    assert [row["policy"] for row in found.completions] == ["21"]
    assert found.samples[0]["policy"]["scores"]["gold"] == [0.75, 0.75]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("2025", r"2025: no such run in .*nights:\n  night-2026-12  failed\n  night-2026-11-21-0200  finished"),
        ("2026-11", r"several nights begin so; give one of night-2026-11-21-0200, night-2026-11-20-0200"),
        ("night-2026-12", "its policy was never evaluated"),
        ("0" * 32, "no such run"),
        ("v1", "no version of nightjar-policy is registered yet"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    tracked: Paths, nights: dict[str, str], name: str, said: str
) -> None:
    """The last nights, and what names there are."""
    with pytest.raises(ValueError, match=said):
        results.find(tracked, name, "nightjar")


def test_without_a_night_the_way_to_one_is_told(tracked: Paths) -> None:
    """On a fresh checkout."""
    with pytest.raises(ValueError, match="no night ran here yet: nightjar run"):
        results.find(tracked, "last", "nightjar")


def test_a_registered_policy_leads_to_the_runs_that_made_it(tracked: Paths, nights: dict[str, str]) -> None:
    """By its number and by its alias, also where no night made it: then its stages' runs are all there is."""
    client = mlflow_store.open_client(tracked)
    client.create_registered_model("nightjar-policy")
    runs = {run.info.run_name: run for run in mlflow_store.find_nights(client, tracked, "night-2026-11-20")}
    night = runs["night-2026-11-20-0200"]
    for tags in ({"night": night.info.run_id}, {"night": "none: registered by itself"}):
        tags["run.evaluate"] = nights["night-2026-11-20-0200"]
        client.create_model_version("nightjar-policy", "file:///nowhere", tags=tags)
    client.set_registered_model_alias("nightjar-policy", versions.CHAMPION, "1")
    for name in ("v1", "champion"):
        found = results.find(tracked, name, "nightjar")
        assert (found.name, found.metrics["sft.eval_loss"]) == ("v1 (night-2026-11-20-0200)", 1.5)
    alone = results.find(tracked, "v2", "nightjar")
    assert (alone.name, alone.metrics["evaluate.policy.gold"]) == ("v2", 0.5)
    assert "sft.eval_loss" not in alone.metrics


def test_it_compares_after_the_data_are_gone(
    tracked: Paths, nights: dict[str, str], printed: Callable[..., str]
) -> None:
    """All comes from MLflow."""
    for file in tracked.evaluation.iterdir():
        file.unlink()
    first, second = (results.find(tracked, name, "nightjar") for name in ("2026-11-20", "last"))
    text = printed(first, second)
    assert "+0.250 [+0.250, +0.250]" in text
    assert "data: data/validated/test differ" in text
    assert Path(tracked.root / "mlruns" / "mlflow.db").is_file()
