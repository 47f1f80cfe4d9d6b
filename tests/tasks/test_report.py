"""report as a stage: what it draws of a night, and what it leaves out where a night has none of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks import report, stages
from tasks.files import read_curve, write_curve, write_json
from tasks.paths import Paths
from tasks.reports import charts
from tests.tasks.html_page import Page

PICTURES = {
    *("sft/curves.png", "reward/reward.png", "policy/curves.png"),
    *("evaluate/comparison.png", "evaluate/win_rate.png", "evaluate/reward.png", "evaluate/gold.png"),
    *("evaluate/best_of_n.png", "evaluate/completions.html"),
}


@pytest.fixture
def night(copied_night: Callable[..., Paths]) -> Paths:
    """A night whose pictures are still to be drawn."""
    return copied_night("reports")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, ...]]:
    """By picture, what it was drawn from: the arguments after the path."""
    seen: dict[str, tuple[Any, ...]] = {}
    for name in ("plot_bars", "plot_curves", "plot_lines", "plot_over_kl", "plot_scores"):
        draw = getattr(charts, name)

        def noted(path: Path, *given: Any, draw: Callable[..., None] = draw) -> None:
            seen[f"{path.parent.name}/{path.name}"] = given
            draw(path, *given)

        monkeypatch.setattr(charts, name, noted)
    return seen


def draw(paths: Paths) -> set[str]:
    """Draws the night; returns the names of what is there then."""
    metrics = report.run(stages.files("report", paths))
    names = {file.relative_to(paths.reports).as_posix() for file in paths.reports.rglob("*") if file.is_file()}
    assert metrics == {"files": len(names)}
    return names


def change_metrics(paths: Paths, changes: dict[str, float]) -> None:
    """Adds figures to those that evaluate left."""
    file = paths.evaluation / "scores.json"
    scores = json.loads(file.read_text())
    write_json(file, scores | {"metrics": scores["metrics"] | changes})


def test_a_plain_night_has_these_pictures_with_the_same_bytes_twice(night: Paths) -> None:
    """None of a monitor, of what was forgotten or of few shots, for it has none of them."""
    assert draw(night) == PICTURES
    first = {name: (night.reports / name).read_bytes() for name in PICTURES}
    shutil.rmtree(night.reports)
    draw(night)
    assert first == {name: (night.reports / name).read_bytes() for name in PICTURES}
    assert all(content.startswith(b"\x89PNG") for name, content in first.items() if name.endswith(".png"))


def test_the_pictures_are_of_the_nights_files(night: Paths, drawn: dict[str, tuple[Any, ...]]) -> None:
    """Every table that holds its own figure is a panel; bars and scores are those of the evaluation."""
    draw(night)
    rows, keys, over, title = drawn["sft/curves.png"]
    assert (keys, over, title) == (["sft.loss", "sft.eval_loss", "sft.learning_rate"], "step", "SFT, per step")
    assert [row for row in rows if "eval_loss" in row] == read_curve(night.plots("sft") / "eval_loss.csv")
    _, keys, over, title = drawn["policy/curves.png"]
    names = ("reward_mean", "kl", "entropy", "clip_fraction", "explained_variance", "response_tokens")
    assert (keys, over, title) == ([f"policy.{name}" for name in names], "iteration", "Policy, per iteration")
    metrics = json.loads(night.metrics("evaluate").read_text())
    [bars, _] = drawn["evaluate/comparison.png"]
    assert list(bars) == ["sft", "policy", "best_of_n"]
    figures = ["rouge1", "rouge2", "rougeL", "bleu", "reward", "gold", "length"]
    assert bars["policy"] == {key: metrics[f"policy.{key}"] for key in figures}
    scores, key, _ = drawn["evaluate/gold.png"]
    assert key == "gold"
    assert sum(scores["policy"]) / len(scores["policy"]) == pytest.approx(metrics["policy.gold"])
    assert drawn["evaluate/best_of_n.png"][1] == ["reward", "gold"]


def test_the_page_holds_every_prompt_with_what_each_model_wrote(night: Paths) -> None:
    """Under the models' titles, with the referee's scores and its name."""
    draw(night)
    texts = Page((night.reports / "evaluate" / "completions.html").read_text(encoding="utf-8")).texts
    rows = [json.loads(line) for line in (night.evaluation / "completions.jsonl").read_text().splitlines()]
    assert {"Completions side by side", "Scored by gold.", "SFT", "policy", "best of n"} <= set(texts)
    for row in rows:
        told = [row["prompt"], *row["references"], *(row[model].strip() for model in ("sft", "policy", "best_of_n"))]
        assert {text for text in told if text} <= {text.strip() for text in texts}
        assert {f"{row[f'{model}_gold']:.3f}" for model in ("sft", "policy", "best_of_n")} <= set(texts)


def test_members_of_an_ensemble_and_the_judge_are_drawn_each(night: Paths, drawn: dict[str, tuple[Any, ...]]) -> None:
    """By their own tables; of the ensemble the mean of its members' losses too."""
    plots = night.plots("reward")
    points = [{"step": 1.0, "loss": 0.7}, {"step": 2.0, "loss": 0.6}]
    for name in ("reward_0", "reward_1", "judge"):
        write_curve(plots / f"{name}_loss.csv", [{**row, "loss": row["loss"] + len(name)} for row in points])
        write_curve(plots / f"{name}_accuracy.csv", [{"step": 1.0, "accuracy": 0.5}])
    write_curve(plots / "judge_calibration.csv", [{"confidence": 0.5, "accuracy": 0.5}])
    for name in ("reward_accuracy", "reward_eval_accuracy"):
        (plots / f"{name}.csv").unlink()
    write_curve(plots / "reward_loss.csv", points)
    assert draw(night) == PICTURES | {"reward/reward_0.png", "reward/reward_1.png", "reward/judge.png"}
    assert drawn["reward/reward.png"][:2] == (points, ["reward.loss"])
    rows, keys, _, title = drawn["reward/reward_1.png"]
    assert (keys, title) == (["reward.loss", "reward.accuracy"], "Reward model, member 1, per step")
    assert [row["loss"] for row in rows if "loss" in row] == [8.7, 8.6]
    _, keys, _, title = drawn["reward/judge.png"]
    assert (keys, title) == (["judge.loss", "judge.accuracy"], "Judge, per step")


def test_a_monitors_readings_are_drawn_over_the_kl(night: Paths, drawn: dict[str, tuple[Any, ...]]) -> None:
    """With the iteration that was kept, and whether the run was stopped."""
    readings = [{"step": float(step), "kl": step / 2, "proxy_gain": step / 3, "held_out_gain": 0.1} for step in (0, 4)]
    write_curve(night.plots("policy") / "monitor.csv", readings)
    write_json(night.models / "policy" / "monitor.json", {"kept_iteration": 0, "stopped": "too far", "readings": []})
    assert draw(night) == PICTURES | {"policy/monitor.png"}
    rows, kept, stopped, _ = drawn["policy/monitor.png"]
    assert (len(rows), kept, stopped) == (2, 0, True)
    assert len(drawn["policy/curves.png"][1]) == 6  # the readings are no curve of the training


def test_what_was_forgotten_is_a_bar_for_each_model_that_was_asked(
    night: Paths, drawn: dict[str, tuple[Any, ...]]
) -> None:
    """A base model only where there was one."""
    change_metrics(night, {"sft.general_loss": 2.5, "policy.general_loss": 2.75})
    assert draw(night) == PICTURES | {"evaluate/forgetting.png"}
    assert drawn["evaluate/forgetting.png"][0] == {"sft": {"general_loss": 2.5}, "policy": {"general_loss": 2.75}}
    change_metrics(night, {"base.general_loss": 2.0})
    draw(night)
    assert list(drawn["evaluate/forgetting.png"][0]) == ["base", "sft", "policy"]


def test_few_shots_are_a_line_for_each_model(night: Paths, drawn: dict[str, tuple[Any, ...]]) -> None:
    """Over rising numbers of shots, 10 after 2; a figure that was not measured has no panel."""
    figures = {f"{model}.shot{count}.bleu": count + offset for count in (10, 0, 2)
               for model, offset in (("sft", 0.0), ("policy", 0.5))}  # fmt: skip
    change_metrics(night, figures)
    assert draw(night) == PICTURES | {"evaluate/few_shot.png"}
    panels, at, *_ = drawn["evaluate/few_shot.png"]
    assert panels == {"bleu": {"sft": [0.0, 2.0, 10.0], "policy": [0.5, 2.5, 10.5]}}
    assert at == [0, 2, 10]
