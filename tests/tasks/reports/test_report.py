"""Pictures and the page: real files, the same bytes for the same figures, nothing unescaped."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pytest

from tasks.reports.charts import (
    Panel,
    plot_bars,
    plot_curves,
    plot_distributions,
    plot_lines,
    plot_over_kl,
    plot_scores,
    plot_win_rate,
    side_by_side,
)
from tasks.reports.page import SideBySide, comparison_page
from tests.tasks.html_page import Page

CURVE = [{"step": step, "loss": 1 / step, **({"kl": 0.1} if step > 3 else {})} for step in range(1, 9)]
READINGS = [
    {"step": step, "kl": step / 2, "proxy_gain": step / 3, "held_out_gain": step - step**2 / 3}
    for step in (0.0, 2.0, 4.0)
]
PICTURES: dict[str, Callable[[Path], None]] = {
    "bars": lambda path: plot_bars(path, {"SFT": {"reward": -1.0}, "policy": {"reward": 2.0, "KL": 12.0}}, "t"),
    "win_rate": lambda path: plot_win_rate(path, {"policy": (0.99, 0.98, 1.0)}),
    "scores": lambda path: plot_scores(path, {"SFT": [0.1, 0.2], "policy": [0.5]}, "gold"),
    "same_scores": lambda path: plot_scores(path, {"SFT": [0.5, 0.5]}, "gold"),
    "curves": lambda path: plot_curves(path, CURVE, ["loss", "kl"], "PPO"),
    "lines": lambda path: plot_lines(path, {"bleu": {"SFT": [1.0, 2.0], "policy": [2.0, 1.0]}}, [0, 4], "shots"),
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
        plot_bars(path, {"SFT": {}})
    with pytest.raises(ValueError, match="found no win rate"):
        plot_win_rate(path, {})
    with pytest.raises(ValueError, match="found no score"):
        plot_scores(path, {"SFT": [0.1], "policy": []}, "gold")
    with pytest.raises(ValueError, match="found no reading"):
        plot_over_kl(path, [], 0, stopped=False)
    with pytest.raises(ValueError, match="found no point"):
        plot_lines(path, {"bleu": {}}, [], "shots")
    with pytest.raises(ValueError, match="found no step"):
        plot_distributions(path, [])
    with pytest.raises(ValueError, match=r"found no \['los'\]"):
        plot_curves(path, CURVE, ["los"])
    with pytest.raises(ValueError, match="found no row"):
        side_by_side(path, [])
    assert list(tmp_path.iterdir()) == []


ROWS = [
    SideBySide(
        "p <1>",
        ["r & r"],
        {"SFT": "a\nb", "policy": "<script>alert(1)</script>"},
        {"SFT": 0.5, "policy": 1.25},
    ),
    SideBySide("p2", [], {"SFT": "", "policy": "c"}, {"SFT": 1.0, "policy": 0.25}),
    SideBySide("p3", [], {"SFT": "only"}, {}),
]


def test_the_page_shows_every_text_and_runs_none() -> None:
    """What a model wrote is text, also when it is a script; the one script is the page's own."""
    page = Page(comparison_page(ROWS))
    assert page.given("href") == []
    assert page.tags.count("script") == 1
    for text in ("p <1>", "r & r", "a\nb", "<script>alert(1)</script>", "empty", "not sampled"):
        assert text in page.texts


def test_rows_carry_the_gain_that_they_are_sorted_by() -> None:
    """The second model's score less the first's; without both scores there is none."""
    page = Page(comparison_page(ROWS))
    assert page.given("data-gain") == ["0.750000", "-0.750000", "0.000000"]
    assert page.given("data-place") == ["0", "1", "2"]
    assert [text for text in page.texts if text.startswith("gain +") or text.startswith("gain -")] == [
        "gain +0.750",
        "gain -0.750",
    ]


def test_the_page_is_written_whole_and_the_same_twice(tmp_path: Path) -> None:
    """Same rows, same bytes."""
    side_by_side(tmp_path / "a.html", ROWS)
    side_by_side(tmp_path / "b.html", ROWS)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!doctype html>")
