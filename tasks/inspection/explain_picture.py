"""An explanation as a picture: for each step and model the raw distribution beside the one that was sampled from."""

from __future__ import annotations

from pathlib import Path

from tasks.inspection.explain import Explanation, Prediction
from tasks.reports.distributions import Panel, plot_distributions
from tasks.terminal import visible


def write_picture(path: Path, explanation: Explanation) -> None:
    """Draws each step, a panel for each model."""
    rows = [
        [_panel(number, prediction) for prediction in step.predictions]
        for number, step in enumerate(explanation.steps, 1)
    ]
    plot_distributions(path, rows, explanation.how)


def _panel(number: int, prediction: Prediction) -> Panel:
    tokens = [visible(bar.token) for bar in prediction.bars]
    series = {"raw": [bar.probabilities[0] for bar in prediction.bars]}
    if len(prediction.stages) > 1:
        series["after the controls"] = [bar.probabilities[-1] for bar in prediction.bars]
    chosen = next(index for index, bar in enumerate(prediction.bars) if bar.chosen)
    return Panel(f"{number}. {prediction.model}", tokens, series, chosen)
