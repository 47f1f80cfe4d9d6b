"""Draws the night: curves of the training stages, the evaluation as pictures, completions side by side as a page.

Reads data/plots, data/models/policy/monitor.json and data/evaluation; writes data/reports, a folder for each stage that
is drawn. Nothing learns from it, so a change in a picture runs no other stage again.

    python -m tasks report
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhf.algorithms import ALGORITHMS
from tasks.files import read_curve, read_rows
from tasks.reports import charts
from tasks.reports.page import SideBySide
from tasks.stage_files import StageFiles

SHOWN = ("rouge1", "rouge2", "rougeL", "bleu", "reward")
"""The figures of an evaluation that have bars, beside the referee's and the length."""
CURVES = {
    "sft": ("loss", "eval_loss", "learning_rate"),
    "policy": tuple(dict.fromkeys(name for row in ALGORITHMS.values() for name in row.curves)),
}


def run(files: StageFiles) -> dict[str, float]:
    """Writes every picture and page; returns how many there are."""
    reports, inputs = files.outputs["reports"], files.inputs
    draw_curves(reports / "sft" / "curves.png", inputs["sft_plots"], CURVES["sft"], "SFT, per step")
    draw_reward(reports / "reward", inputs["reward_plots"])
    draw_curves(reports / "policy" / "curves.png", inputs["policy_plots"], CURVES["policy"], "Policy, per iteration")
    draw_monitor(reports / "policy" / "monitor.png", inputs["policy_plots"], inputs["policy"])
    draw_evaluation(reports / "evaluate", inputs["evaluate_plots"], inputs["evaluation"])
    return {"files": float(sum(file.is_file() for file in reports.rglob("*")))}


def draw_curves(path: Path, plots: Path, names: Sequence[str], title: str, prefix: str = "") -> None:
    """The tables of these names, those that there are, a panel each."""
    rows = [row for name in names for row in _read(plots / f"{prefix}{name}.csv")]
    charts.plot_curves(path, rows, [name for name in names if any(name in row for row in rows)], title)


def draw_reward(folder: Path, plots: Path) -> None:
    """Loss and accuracy of each network that was trained: reward model and judge, or their members."""
    names = ("loss", "accuracy", "eval_accuracy")
    for file in sorted(plots.glob("*_accuracy.csv")):
        title = file.stem.removesuffix("_accuracy")
        if not title.endswith("_eval"):
            draw_curves(folder / f"{title}.png", plots, names, f"{title} model, per step", f"{title}_")


def draw_monitor(path: Path, plots: Path, policy: Path) -> None:
    """What was optimised and what was not, over the KL; nothing where no monitor watched."""
    if not (policy / "monitor.json").is_file():
        return
    told = json.loads((policy / "monitor.json").read_text(encoding="utf-8"))
    rows, stopped = read_curve(plots / "monitor.csv"), told["stopped"] is not None
    charts.plot_over_kl(path, rows, told["kept_iteration"], stopped, "What was optimised, and what not")


def draw_evaluation(folder: Path, plots: Path, evaluation: Path) -> None:
    """The figures of the models, the win rate, every scorer's scores, best-of-n, and the completions as a page."""
    scores = json.loads((evaluation / "scores.json").read_text(encoding="utf-8"))
    figures, referee = scores["metrics"], scores["sampling"]["referee"]
    completions = [row for _, row in read_rows(evaluation / "completions.jsonl")]
    samples = [row for _, row in read_rows(evaluation / "samples.jsonl")]
    models = ("sft", "policy", "best_of_n")
    table = {model: {key: figures[f"{model}.{key}"] for key in (*SHOWN, referee, "length")} for model in models}
    charts.plot_bars(folder / "comparison.png", table, "On held-out test prompts")
    interval = (figures["win_rate"], figures["win_rate_low"], figures["win_rate_high"])
    charts.plot_win_rate(folder / "win_rate.png", {"policy": interval}, f"Win rate over SFT, judged by {referee}")
    for scorer in ("reward", referee):
        drawn = {
            model: [score for row in samples for score in row[model]["scores"][scorer]] for model in ("sft", "policy")
        }
        charts.plot_scores(folder / f"{scorer}.png", drawn, f"{scorer}, one count per sampled completion")
    best = read_curve(plots / "best_of_n.csv")
    names = [name for name in best[0] if name != "step"]
    charts.plot_curves(folder / "best_of_n.png", best, names, "Expected score of the best of n, over n")
    charts.side_by_side(folder / "completions.html", list(_rows(completions, models, referee)))
    _draw_forgetting(folder / "forgetting.png", figures)
    _draw_few_shot(folder / "few_shot.png", figures)


def _rows(completions: Sequence[dict[str, Any]], models: Sequence[str], referee: str) -> Iterator[SideBySide]:
    for row in completions:
        yield SideBySide(
            prompt=row["prompt"],
            references=row["references"],
            completions={model: row[model] for model in models},
            scores={model: row[f"{model}_{referee}"] for model in models},
        )


def _draw_forgetting(path: Path, figures: dict[str, float]) -> None:
    """A bar for each model whose loss on other tasks was measured."""
    losses = {
        model: {"general_loss": figures[f"{model}.general_loss"]}
        for model in ("base", "sft", "policy")
        if f"{model}.general_loss" in figures
    }
    if losses:
        charts.plot_bars(path, losses, "On other tasks, nats per token")


def _draw_few_shot(path: Path, figures: dict[str, float]) -> None:
    """Each figure over the number of demonstrations in the prompt, a line a model."""
    keys = [key.split(".") for key in figures if ".shot" in key]
    if not keys:
        return
    counts = sorted({int(shots.removeprefix("shot")) for _, shots, _ in keys})
    panels = {
        figure: {
            model: [figures[f"{model}.shot{count}.{figure}"] for count in counts]
            for model in ("base", "sft", "policy")
            if [model, f"shot{counts[0]}", figure] in keys
        }
        for figure in ("rougeL", "bleu", "gold")
        if any(name == figure for _, _, name in keys)
    }
    charts.plot_lines(path, panels, counts, "demonstrations in the prompt", "Zero, one and few shots, greedy answers")


def _read(path: Path) -> list[dict[str, float]]:
    return read_curve(path) if path.is_file() else []
