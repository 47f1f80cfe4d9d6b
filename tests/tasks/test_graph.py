"""dvc.yaml as DVC's plots need it: every plot is defined, and its files are written by the stage they belong to."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks import graph
from tasks.paths import Paths
from tasks.reports import plots
from tasks.reports.plots import PLOTS, Plot
from tasks.stages import STAGES


@pytest.fixture(scope="module")
def drawn(repository: Path) -> dict[str, Any]:
    """What YAML makes of the text that is drawn."""
    found: dict[str, Any] = yaml.safe_load(graph.render(repository))
    return found


def test_every_plot_has_a_title_and_named_axes(drawn: dict[str, Any]) -> None:
    """In the order of the table, with its columns."""
    assert [next(iter(plot)) for plot in drawn["plots"]] == [plot.name for plot in PLOTS]
    for plot, shown in zip(PLOTS, (next(iter(plot.values())) for plot in drawn["plots"]), strict=True):
        assert (shown["title"], shown["x"], shown["x_label"]) == (plot.name, plot.x, plot.x_label)
        assert shown["y_label"] == plot.y_label
        for file, columns in plot.y.items():
            found = shown["y"][f"data/plots/{file}"]
            assert ([found] if isinstance(found, str) else found) == columns


def test_plots_are_kept_by_git(drawn: dict[str, Any]) -> None:
    """Those of the stages with curves are uncached, so that they travel with the commit; they are what is drawn."""
    kept = {name: stage["plots"] for name, stage in drawn["stages"].items() if "plots" in stage}
    assert kept == {name: [{f"data/plots/{name}": {"cache": False}}] for name in kept}
    assert list(kept) == [name for name, stage in STAGES.items() if stage.curves]
    assert {file.split("/")[0] for plot in PLOTS for file in plot.y} == set(kept)


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_a_night_writes_what_each_plot_draws(small_night: Paths, plot: Plot) -> None:
    """Its files hold the columns, with numbers in them; bars are named."""
    for file, columns in plot.y.items():
        with (small_night.data / "plots" / file).open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        assert rows, file
        for row in rows:
            for name in (plot.x, *columns):
                assert row[name] if name == "score" else float(row[name]) is not None


def test_lengths_are_shares_of_each_models_completions(small_night: Paths) -> None:
    """They sum to one, and their mean is the mean number of words of the samples."""
    from tasks.files import read_rows

    with (small_night.plots("evaluate") / "lengths.csv").open(encoding="utf-8") as stream:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]
    samples = [row for _, row in read_rows(small_night.evaluation / "samples.jsonl")]
    for model in ("sft", "policy"):
        words = [len(text.split()) for row in samples for text in row[model]["texts"]]
        assert sum(row[model] for row in rows) == pytest.approx(1.0, abs=1e-4)
        assert sum(row["words"] * row[model] for row in rows) == pytest.approx(sum(words) / len(words), abs=1e-4)


def test_names_with_a_colon_stay_names() -> None:
    """YAML would take `SFT: loss` for a mapping."""
    assert '  - "SFT: loss":\n' in plots.render()
