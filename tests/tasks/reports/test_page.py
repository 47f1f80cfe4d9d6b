"""The page of completions: every text shown, none run, sortable, the same bytes for the same rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.reports.page import SideBySide, comparison_page, side_by_side
from tests.tasks.html_page import Page

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


def test_control_characters_are_shown_and_a_text_of_none_that_show_is_empty() -> None:
    """A browser has no use for them, and the page may be read in a terminal; U+200B alone shows nothing."""
    row = SideBySide("p\x1b[0m", ["r\x9c"], {"SFT": "a\x00", "policy": "\u200b"}, {})
    page = comparison_page([row])
    for shown in (r"p\x1b[0m", r"r\x9c", r"a\x00", '<i class="none">empty</i>'):
        assert shown in page
    assert not set(page) & {"\x1b", "\x9c", "\x00"}


def test_rows_carry_the_gain_that_they_are_sorted_by() -> None:
    """The second model's score less the first's; without both scores there is none."""
    page = Page(comparison_page(ROWS))
    assert page.given("data-gain") == ["0.750000", "-0.750000", "0.000000"]
    assert page.given("data-index") == ["0", "1", "2"]
    assert [text for text in page.texts if text.startswith("gain +") or text.startswith("gain -")] == [
        "gain +0.750",
        "gain -0.750",
    ]


def test_the_page_is_written_whole_and_the_same_twice(tmp_path: Path) -> None:
    """Same rows, same bytes."""
    side_by_side(tmp_path / "a.html", ROWS, "gold")
    side_by_side(tmp_path / "b.html", ROWS, "gold")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert (tmp_path / "a.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert "Scored by gold." in Page((tmp_path / "a.html").read_text(encoding="utf-8")).texts


def test_a_page_without_rows_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    """The error names the file and what is expected."""
    with pytest.raises(ValueError, match=r"x\.html: found no row to show; give one SideBySide per prompt"):
        side_by_side(tmp_path / "x.html", [], "gold")
    assert list(tmp_path.iterdir()) == []
