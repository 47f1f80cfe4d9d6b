"""An explanation as a picture: for each step and model the raw distribution beside the one that was sampled from."""

from __future__ import annotations

from pathlib import Path

from tasks.inspection.explain import Explanation, Reading
from tasks.reports.distributions import Panel, plot_distributions


def write_picture(path: Path, explanation: Explanation) -> None:
    """Draws each step, a panel for each model."""
    rows = [[_panel(number, reading) for reading in step.readings] for number, step in enumerate(explanation.steps, 1)]
    plot_distributions(path, rows, explanation.how)


def _panel(number: int, reading: Reading) -> Panel:
    tokens = [bar.token for bar in reading.bars]
    series = {"raw": [bar.probabilities[0] for bar in reading.bars]}
    if len(reading.stages) > 1:
        series["after the controls"] = [bar.probabilities[-1] for bar in reading.bars]
    chosen = next(index for index, bar in enumerate(reading.bars) if bar.chosen)
    return Panel(f"{number}. {reading.model}", tokens, series, chosen)
