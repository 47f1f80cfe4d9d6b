"""`make bench-growth`: how our time and memory grow with prompts, completions, lengths and the model.

Each point is a process of its own, on one thread: its time is CPU time, and its memory what the work adds to the
process with its model loaded.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import linear_regression, median
from typing import Any

from tasks.environment import ALLOCATOR, STEADY
from tests.benchmarks.floor import network_of
from tests.benchmarks.harness import ROOT, Contender, model_of, race
from tests.benchmarks.shapes import Work
from tests.benchmarks.worker import Job


@dataclass(frozen=True)
class Axis:
    """One quantity that is doubled, in one kind of work.

    Attributes:
        name: of the quantity.
        subject: what runs.
        work: for each point.
        size: the quantity of a point.
        options: of the subject.
    """

    name: str
    subject: str
    work: Sequence[Work]
    size: Callable[[Work], float]
    options: dict[str, Any] = field(default_factory=dict)


_ROWS = [Work(rows=rows) for rows in (3_750, 7_500, 15_000, 30_000)]
_PPO = Work(longest_prompt=24, stop=0.0)
AXES = (
    Axis(
        "prompts of a PPO iteration",
        "ours:ppo",
        [replace(_PPO, rows=rows) for rows in (16, 32, 64, 128)],
        lambda work: work.rows,
        {"critic": "head"},
    ),
    Axis(
        "new tokens of a PPO iteration",
        "ours:ppo",
        [replace(_PPO, rows=16, new_tokens=count) for count in (32, 64, 128, 256)],
        lambda work: work.new_tokens,
        {"critic": "head"},
    ),
    Axis(
        "completions of a ranking",
        "ours:reward",
        [Work(rows=4, completions=count) for count in (3, 6, 12, 24)],
        lambda work: work.completions,
    ),
    Axis(
        "longest response in SFT",
        "ours:sft",
        [Work(rows=16, longest_response=longest) for longest in (60, 120, 240, 470)],
        lambda work: work.longest_response,
    ),
    Axis(
        "parameters in SFT",
        "ours:sft",
        [Work(rows=16, shape=f"width-{width}") for width in (128, 256, 384, 512)],
        lambda work: network_of(work.shape).matrices + network_of(work.shape).head,
    ),
    Axis("rankings in pairs", "stages:pairs", _ROWS, lambda work: work.rows),
    Axis("demonstrations and prompts in validate", "stages:validate", _ROWS, lambda work: work.rows),
)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log cost over log size by least squares: 1 where cost is proportional, 2 where it is quadratic."""
    return linear_regression([math.log(size) for size in sizes], [math.log(cost) for cost in costs]).slope


def measure(axis: Axis, repetitions: int, folder: Path) -> dict[str, Any]:
    """The points of one axis: sizes, CPU seconds, and megabytes over those of the process before it worked."""
    seconds, megabytes = [], []
    for work in axis.work:
        model = model_of(work, folder) if axis.subject.startswith("ours:") else ""
        job = Job(axis.subject, work, model, axis.options)
        (run,) = race([Contender(job, None, {**STEADY, **ALLOCATOR})], repetitions)
        if run.error:
            raise RuntimeError(run.error)
        seconds.append(median(run.cpu))
        megabytes.append(run.peak_mb - run.start_mb)
    sizes = [axis.size(work) for work in axis.work]
    return {
        "name": axis.name,
        "sizes": sizes,
        "seconds": seconds,
        "megabytes": megabytes,
        "time_exponent": exponent(sizes, seconds),
        "memory_exponent": exponent(sizes, megabytes),
    }


def table(found: Sequence[dict[str, Any]]) -> str:
    """All axes as a Markdown table."""
    lines = ["| doubled | sizes | CPU s | grows as | MB | grows as |", "|---|---|---|---:|---|---:|"]
    for row in found:
        cells = [row["name"], ", ".join(f"{size:,.0f}" for size in row["sizes"])]
        for costs, digits, power in (("seconds", 2, "time_exponent"), ("megabytes", 0, "memory_exponent")):
            cells += [", ".join(f"{cost:,.{digits}f}" for cost in row[costs]), f"size^{row[power]:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(found: Sequence[dict[str, Any]], path: Path) -> None:
    """Time and memory over size, each from 1 at its smallest point, beside a proportional and a quadratic line."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), sharex=True)
    for panel, key, power, title in zip(
        panels, ("seconds", "megabytes"), ("time_exponent", "memory_exponent"), ("time", "memory"), strict=True
    ):
        for row in found:
            sizes, costs = ([value / row[name][0] for value in row[name]] for name in ("sizes", key))
            panel.plot(sizes, costs, marker="o", label=f"{row['name']}: size^{row[power]:.2f}")
        panel.plot([1, 8], [1, 8], color="grey", linestyle="--", linewidth=1, label="proportional")
        panel.plot([1, 8], [1, 64], color="grey", linestyle=":", linewidth=1, label="quadratic")
        panel.set(xscale="log", yscale="log", xlabel="times the smallest size", title=f"{title}, times the smallest")
        panel.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        panel.set_ylim(0.8, 16)
        panel.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Measures every axis, prints the table and draws the plot."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth", description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "growth.png", metavar="FILE")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="axes whose names hold one of these, without a plot")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        axes = [axis for axis in AXES if any(word in axis.name for word in arguments.only or [""])]
        found = [measure(axis, arguments.repetitions, Path(folder)) for axis in axes]
    print(table(found))
    if not arguments.only:
        plot(found, arguments.plot)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
