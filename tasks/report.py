"""Draws the night: curves of the training stages, the evaluation as pictures, completions side by side as a page.

Reads data/plots, data/models/policy/monitor.json and data/evaluation; writes data/reports, a folder for each stage that
is drawn. Nothing learns from it, so a change in a picture runs no other stage again.

    python -m tasks report
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tasks.figures import FIGURES
from tasks.files import read_curve, read_rows
from tasks.reports import charts, page
from tasks.reports.page import SideBySide
from tasks.roles import CONTESTANTS, FAMILY, POLICIES, ROLES
from tasks.stage_files import StageFiles

BARS = ("rouge1", "rouge2", "rougeL", "bleu", "reward")
"""The figures of an evaluation that have bars, beside the referee's and the length."""
SHOTS = ("rougeL", "bleu", "gold")
"""The figures that are measured with demonstrations in the prompt."""


def run(files: StageFiles) -> dict[str, float]:
    """Writes every picture and page; returns how many there are."""
    reports, inputs = files.outputs["reports"], files.inputs
    draw_curves(reports / "sft" / "curves.png", inputs["sft_plots"], "sft")
    draw_reward(reports / "reward", inputs["reward_plots"])
    draw_curves(reports / "policy" / "curves.png", inputs["policy_plots"], "policy", over="iteration")
    draw_monitor(reports / "policy" / "monitor.png", inputs["policy_plots"], inputs["policy"])
    draw_evaluation(reports / "evaluate", inputs["evaluate_plots"], inputs["evaluation"])
    return {"files": float(sum(file.is_file() for file in reports.rglob("*")))}


def draw_curves(path: Path, plots: Path, role: str, prefix: str = "", title: str = "", over: str = "step") -> None:
    """A panel for each table `<prefix><figure>.csv` of a training, in the order of the table of figures.

    Args:
        path: the PNG to write.
        plots: the folder with the tables; those with other columns are left to others.
        role: the model that was trained.
        prefix: what the tables of this training begin with.
        title: what was trained; the model's title when not given.
        over: what the steps are.
    """
    tables = {file.stem.removeprefix(prefix): file for file in plots.glob(f"{prefix}*.csv")}
    curves = {name: rows for name, file in tables.items() if name in (rows := read_curve(file))[0]}
    order = [key.rpartition(".")[2] for key in FIGURES]
    keys = [f"{role}.{name}" for name in sorted(curves, key=order.index)]
    rows = [row for table in curves.values() for row in table]
    charts.plot_curves(path, rows, keys, over, f"{title or ROLES[role].heading}, per {over}")


def draw_reward(folder: Path, plots: Path) -> None:
    """Every network that was trained, reward model and judge: of an ensemble its members and the mean of them."""
    for name in sorted(file.stem.removesuffix("_loss") for file in plots.glob("*_loss.csv")):
        role, _, member = name.partition("_")
        title = f"{ROLES[role].heading}, member {member}" if member else ""
        draw_curves(folder / f"{name}.png", plots, role, f"{name}_", title)


def draw_monitor(path: Path, plots: Path, policy: Path) -> None:
    """What was optimised and what was not, over the KL; nothing where no monitor watched."""
    if not (policy / "monitor.json").is_file():
        return
    monitor = json.loads((policy / "monitor.json").read_text(encoding="utf-8"))
    rows, stopped = read_curve(plots / "monitor.csv"), monitor["stopped"] is not None
    charts.plot_over_kl(path, rows, monitor["kept_iteration"], stopped, "What was optimised, and what not")


def draw_evaluation(folder: Path, plots: Path, evaluation: Path) -> None:
    """The figures of the models, the win rate, every scorer's scores, best-of-n, and the completions as a page."""
    scores = json.loads((evaluation / "scores.json").read_text(encoding="utf-8"))
    metrics, referee = scores["metrics"], scores["sampling"]["referee"]
    samples = [row for _, row in read_rows(evaluation / "samples.jsonl")]
    bars = {model: {key: metrics[f"{model}.{key}"] for key in (*BARS, referee, "length")} for model in CONTESTANTS}
    charts.plot_bars(folder / "comparison.png", bars, "On held-out test prompts")
    rate = (metrics["win_rate"], metrics["win_rate_low"], metrics["win_rate_high"])
    over = f"{FIGURES['win_rate'].heading} over {ROLES['sft'].title}, judged by {referee}"
    charts.plot_win_rate(folder / "win_rate.png", {"policy": rate}, over)
    for scorer in ("reward", referee):
        drawn = {model: [score for row in samples for score in row[model]["scores"][scorer]] for model in POLICIES}
        title = f"{FIGURES[scorer].heading}, one count per sampled completion"
        charts.plot_scores(folder / f"{scorer}.png", drawn, scorer, title)
    best = read_curve(plots / "best_of_n.csv")
    names = [name for name in best[0] if name != "step"]
    charts.plot_curves(folder / "best_of_n.png", best, names, "n", "Expected score of the best of n")
    page.side_by_side(folder / "completions.html", list(_rows(evaluation / "completions.jsonl", referee)), referee)
    _draw_forgetting(folder / "forgetting.png", metrics)
    _draw_few_shot(folder / "few_shot.png", metrics)


def _rows(completions: Path, referee: str) -> Iterator[SideBySide]:
    for _, row in read_rows(completions):
        yield SideBySide(
            prompt=row["prompt"],
            references=row["references"],
            completions={ROLES[model].title: row[model] for model in CONTESTANTS},
            scores={ROLES[model].title: row[f"{model}_{referee}"] for model in CONTESTANTS},
        )


def _draw_forgetting(path: Path, metrics: Mapping[str, float]) -> None:
    """A bar for each model whose loss on other tasks was measured; nothing where none was."""
    key = "general_loss"
    losses = {model: {key: metrics[f"{model}.{key}"]} for model in FAMILY if f"{model}.{key}" in metrics}
    if losses:
        charts.plot_bars(path, losses, "What was forgotten")


def _draw_few_shot(path: Path, metrics: Mapping[str, float]) -> None:
    """Each figure over the number of demonstrations in the prompt, a line a model; nothing where there were none."""
    counts = sorted({int(key.split(".")[1].removeprefix("shot")) for key in metrics if ".shot" in key})
    panels = {figure: _lines(metrics, figure, counts) for figure in SHOTS}
    if panels := {figure: lines for figure, lines in panels.items() if lines}:
        title = "Zero, one and few shots, greedy answers"
        charts.plot_lines(path, panels, counts, "demonstrations in the prompt", title)


def _lines(metrics: Mapping[str, float], figure: str, counts: Sequence[int]) -> dict[str, list[float]]:
    """By model, a figure's value at each number of shots, for the models that it was measured of."""
    keys = {model: [f"{model}.shot{count}.{figure}" for count in counts] for model in FAMILY}
    return {model: [metrics[key] for key in row] for model, row in keys.items() if row and row[0] in metrics}
