"""What DVC shows of two real nights: params, figures and plots that differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.reports.plots import PLOTS


def dvc(root: Path, *arguments: str) -> str:
    """What DVC says, as a person would call it."""
    command = [sys.executable, "-m", "dvc", *arguments]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_changed_param_and_what_it_changed_are_shown(two_nights: Path) -> None:
    """`dvc params diff` names one param; `dvc metrics diff` figures of PPO and of what comes after it alone."""
    params = json.loads(dvc(two_nights, "params", "diff", "--json"))
    assert params == {"params.yaml": {"policy.kl.coefficient": {"old": 0.05, "new": 0.5, "diff": 0.45}}}
    metrics = json.loads(dvc(two_nights, "metrics", "diff", "--json"))
    assert set(metrics) == {"data/metrics/policy.json", "data/metrics/evaluate.json"}
    figures = json.loads((two_nights / "data/metrics/evaluate.json").read_text())
    assert metrics["data/metrics/evaluate.json"]["policy.kl"]["new"] == figures["policy.kl"]


def test_the_night_is_a_row_of_exp_show(two_nights: Path) -> None:
    """With its params and its figures beside those of the commit."""
    workspace, commit = json.loads(dvc(two_nights, "exp", "show", "--json"))

    def penalty(row: dict[str, Any]) -> float:
        return float(row["data"]["params"]["params.yaml"]["data"]["policy"]["kl"]["coefficient"])

    assert (penalty(workspace), penalty(commit)) == (0.5, 0.05)
    assert workspace["data"]["metrics"]["data/metrics/evaluate.json"]["data"]["win_rate"] >= 0


@pytest.fixture(scope="module")
def drawn(two_nights: Path) -> dict[str, Any]:
    """What `dvc plots diff` draws of the commit and the workspace."""
    found: dict[str, Any] = json.loads(dvc(two_nights, "plots", "diff", "HEAD", "--json"))
    return found


def test_every_plot_shows_both_nights(drawn: dict[str, Any]) -> None:
    """None is missing, they come before the single files, with their titles, axes and points of either night."""
    assert drawn.get("errors", []) == []
    assert list(drawn["data"])[: len(PLOTS)] == [plot.name for plot in PLOTS]
    for plot in PLOTS:
        [shown] = drawn["data"][plot.name]
        vega = shown["content"] if isinstance(shown["content"], dict) else json.loads(shown["content"])
        assert vega["title"]["text"] == plot.name
        points = vega["data"]["values"]
        assert {point["rev"] for point in points} == {"HEAD", "workspace"}, plot.name
        assert all(float(point[plot.x]) is not None for point in points)
        text = json.dumps(vega)
        assert plot.x_label in text
        assert plot.y_label in text


def test_plots_become_one_page(two_nights: Path, tmp_path: Path) -> None:
    """`dvc plots diff` and `dvc plots show` write a page with a drawing each."""
    for command in (["plots", "show"], ["plots", "diff", "HEAD"]):
        said = dvc(two_nights, *command, "-o", str(tmp_path / command[1]))
        assert "failed" not in said
        page = (tmp_path / command[1] / "index.html").read_text(encoding="utf-8")
        assert all(plot.name in page for plot in PLOTS)
        pictures = len(list((two_nights / "data" / "plots").rglob("*.png")))
        assert len(list((tmp_path / command[1] / "static").glob("*.png"))) == pictures * (1 + (command[1] == "diff"))


def test_what_did_not_change_is_drawn_alike(drawn: dict[str, Any]) -> None:
    """SFT came from the cache, so its curve is the same in both; PPO's is not."""

    def values(name: str, column: str, rev: str) -> list[str]:
        content = drawn["data"][name][0]["content"]
        points = (content if isinstance(content, dict) else json.loads(content))["data"]["values"]
        return [point[column] for point in points if point["rev"] == rev]

    assert values("SFT: loss", "dvc_inferred_y_value", "HEAD") == values(
        "SFT: loss", "dvc_inferred_y_value", "workspace"
    )
    assert values("Policy: KL", "kl", "HEAD") != values("Policy: KL", "kl", "workspace")
