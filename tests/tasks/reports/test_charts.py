"""Pictures: real files, the same bytes for the same figures, titles of the one table."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from tasks.reports.charts import (
    plot_bars,
    plot_curves,
    plot_lines,
    plot_over_kl,
    plot_scores,
    plot_win_rate,
)
from tasks.reports.distributions import Panel, plot_distributions

CURVE = [{"step": step, "loss": 1 / step, **({"kl": 0.1} if step > 3 else {})} for step in range(1, 9)]
READINGS = [
    {"step": step, "kl": step / 2, "proxy_gain": step / 3, "held_out_gain": step - step**2 / 3}
    for step in (0.0, 2.0, 4.0)
]
PICTURES: dict[str, Callable[[Path], None]] = {
    "bars": lambda path: plot_bars(path, {"sft": {"reward": -1.0}, "policy": {"reward": 2.0, "kl": 12.0}}, "t"),
    "win_rate": lambda path: plot_win_rate(path, {"policy": (0.99, 0.98, 1.0)}),
    "scores": lambda path: plot_scores(path, {"sft": [0.1, 0.2], "policy": [0.5]}, "gold"),
    "same_scores": lambda path: plot_scores(path, {"sft": [0.5, 0.5]}, "gold"),
    "curves": lambda path: plot_curves(path, CURVE, ["policy.loss", "policy.kl"], "iteration", "PPO"),
    "lines": lambda path: plot_lines(path, {"bleu": {"sft": [1.0, 2.0], "policy": [2.0, 1.0]}}, [0, 4], "shots"),
    "distributions": lambda path: plot_distributions(
        path, [[Panel("1. SFT", ["a", "$b$"], {"raw": [0.9, 0.1], "top-k 1": [1.0, 0.0]}, chosen=0)]]
    ),
    "over_kl": lambda path: plot_over_kl(path, READINGS, 2, stopped=True),
    "over_kl_unjudged": lambda path: plot_over_kl(
        path, [{"step": 0.0, "kl": 0.0, "proxy_gain": 0.0}], 0, stopped=False
    ),
    "one_point": lambda path: plot_curves(path, CURVE[:1], ["loss"]),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_a_png_with_the_same_bytes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also when the user's own matplotlib settings change in between; no text chunk tells of the program."""
    first, second = tmp_path / "new" / "first.png", tmp_path / "second.png"
    PICTURES[name](first)
    monkeypatch.setitem(mpl.rcParams, "font.size", 30)
    monkeypatch.setitem(mpl.rcParams, "savefig.dpi", 20)
    PICTURES[name](second)
    content = first.read_bytes()
    assert content == second.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert min(width, height) > 100
    assert b"tEXt" not in content
    assert [file.name for file in tmp_path.rglob("*.partial")] == []


def test_a_picture_shows_its_figures(tmp_path: Path) -> None:
    """Another figure is another picture."""
    plot_win_rate(tmp_path / "a.png", {"policy": (0.9, 0.8, 0.95)})
    plot_win_rate(tmp_path / "b.png", {"policy": (0.9, 0.8, 0.96)})
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_nothing_to_show_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    """The error names the file and what is expected; a column that no row has is named."""
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match=r"x\.png: found no figure"):
        plot_bars(path, {"sft": {}})
    with pytest.raises(ValueError, match="found no win rate"):
        plot_win_rate(path, {})
    with pytest.raises(ValueError, match="found no score"):
        plot_scores(path, {"sft": [0.1], "policy": []}, "gold")
    with pytest.raises(ValueError, match="found no reading"):
        plot_over_kl(path, [], 0, stopped=False)
    with pytest.raises(ValueError, match="found no point"):
        plot_lines(path, {"bleu": {}}, [], "shots")
    with pytest.raises(ValueError, match="found no step"):
        plot_distributions(path, [])
    with pytest.raises(ValueError, match=r"found no \['los'\]"):
        plot_curves(path, CURVE, ["los"])
    with pytest.raises(ValueError, match=r"los: no such figure; give it a row in tasks/figures\.py"):
        plot_curves(path, [{"step": 1.0, "los": 2.0}], ["los"])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that matplotlib puts into a picture, as it is drawn."""
    from matplotlib.text import Text

    texts: list[str] = []
    draw = Text.draw

    def noted(self: Text, *given: Any) -> None:
        texts.append(self.get_text())
        draw(self, *given)

    monkeypatch.setattr(Text, "draw", noted)
    return texts


def test_figures_and_models_have_the_titles_units_and_digits_of_the_tables(tmp_path: Path, written: list[str]) -> None:
    """Keys go in; what people read comes out, with units on panels and axes."""
    plot_bars(tmp_path / "a.png", {"sft": {"rougeL": 0.25}, "best_of_n": {"rougeL": 0.5, "kl": 1.5}})
    assert {"ROUGE-L", "KL (nats)", "SFT", "best of n", "0.2500", "0.5000", "1.50"} <= set(written)
    plot_curves(tmp_path / "b.png", [{"step": 1.0, "loss": 2.0}], ["sft.loss"], "iteration")
    assert {"loss (nats per token)", "iteration"} <= set(written)
    plot_over_kl(tmp_path / "c.png", READINGS, 2, stopped=True)
    told = {"KL (nats)", "gain (deviations at the start)", "reward model (optimised)", "held-out score"}
    assert told <= set(written)


def test_steps_are_whole_numbers(tmp_path: Path, written: list[str]) -> None:
    """Between iteration 1 and 2 there is nothing."""
    plot_curves(tmp_path / "a.png", [{"step": 1.0, "kl": 0.0}, {"step": 2.0, "kl": 0.0}], ["kl"])
    assert {"1", "2"} <= set(written)
    assert "1.5" not in written
