"""The canvas of every picture: the house style, the colours of the models, a PNG that is written whole.

The bytes depend on what is drawn alone: no date, no program name, no setting of the user's own matplotlib.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#1d2733", "#6b7785", "#e3e7ec"
COLORS = ("#94a3b8", "#0f766e", "#d97706", "#7c3aed", "#be123c", "#2563eb")
STYLE: dict[str, Any] = {
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "legend.frameon": False,
}


@contextmanager
def canvas(path: Path, size: tuple[float, float], title: str) -> Iterator[Figure]:
    """A figure in the house style, written whole to `path` when the block ends without an error."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with style.context(STYLE, after_reset=True):
        figure = Figure(figsize=size)
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        yield figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(buffer.getvalue())
    os.replace(partial, path)


def color(index: int) -> str:
    """The colour of a picture's first, second, … series."""
    return COLORS[index % len(COLORS)]


def need(there: bool, path: Path, lacking: str, expected: str) -> None:
    """Raises ValueError where there is nothing to draw."""
    if not there:
        raise ValueError(f"{path}: found {lacking} to show; give {expected}")
