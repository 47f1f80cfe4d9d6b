"""The nights before, from MLflow alone: whose data tonight's are compared with, and what a night keeps for later."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks.drift import compare, nights, page
from tasks.drift.compare import Baseline, Measured
from tasks.drift.profile import Profile, Traits
from tasks.params.register import DriftParams
from tasks.paths import Paths
from tasks.tracking import mlflow_store
from tests.tasks.html_page import Page


class Version(NamedTuple):
    """A policy version, as far as drift knows it."""

    version: str
    run_id: str | None


def rows(*names: str, **traits: Any) -> Profile:
    """A prompt of each name."""
    return [Traits(kind="prompts", prompt=name, row=name, **({"length": 3.0} | traits)) for name in names]


@pytest.fixture
def client(tracked: Paths) -> Any:
    return mlflow_store.open_client(tracked)


def kept(client: Any, paths: Paths, profile: Profile, status: str = "FINISHED") -> str:
    """A run that kept this profile."""
    run_id = mlflow_store.create_run(client, paths, "register", {})
    nights.keep(client, run_id, paths, profile, [], [], DriftParams())
    client.set_terminated(run_id, status)
    return run_id


def test_before_any_night_there_is_nothing_to_compare_with(client: Any, tracked: Paths) -> None:
    """Nor beside the very data that a run before had, which would call every drift old when register runs again."""
    assert nights.baselines(client, tracked, rows("a"), None, 7) == []
    kept(client, tracked, rows("a"))
    assert nights.baselines(client, tracked, rows("a"), None, 7) == []


def test_the_last_nights_are_those_with_other_data(client: Any, tracked: Paths) -> None:
    """The latest, as many as params say; what failed, or was registered twice, is no further night."""
    for name in ("a", "b", "c", "c"):
        kept(client, tracked, rows(name))
    kept(client, tracked, rows("failed"), "FAILED")
    [baseline] = nights.baselines(client, tracked, rows("tonight"), None, 2)
    assert baseline == Baseline("nights", "the last 2 nights", [rows("c"), rows("b")])
    [baseline] = nights.baselines(client, tracked, rows("c"), None, 1)
    assert baseline == Baseline("nights", "the last night", [rows("b")])


def test_the_champion_leads_to_its_data(client: Any, tracked: Paths) -> None:
    """By the run that registered it; one that kept no profile, or is gone, is known to be unknown."""
    champion = Version("3", kept(client, tracked, rows("a")))
    [baseline, _] = nights.baselines(client, tracked, rows("b"), champion, 7)
    assert baseline == Baseline("champion", "champion 3", [rows("a")])
    bare = mlflow_store.create_run(client, tracked, "register", {})
    for run_id in (bare, "0" * 32, None):
        [baseline, _] = nights.baselines(client, tracked, rows("b"), Version("2", run_id), 7)
        assert baseline == Baseline("champion", "champion 2", None)


def test_a_damaged_profile_is_told_and_not_known(
    client: Any, tracked: Paths, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a file, as a full disk leaves it: the night registers all the same."""
    damaged = kept(client, tracked, rows("a"))
    [file] = tracked.mlruns.rglob(f"{damaged}/artifacts/{nights.PROFILE}")
    file.write_bytes(file.read_bytes()[:20])
    kept(client, tracked, rows("b"))
    champion, last = nights.baselines(client, tracked, rows("c"), Version("1", damaged), 7)
    assert champion.profiles is None
    assert last.profiles == [rows("b")]
    assert f"not measured from the night of run {damaged}, whose profile cannot be read: " in capsys.readouterr().err


def test_a_night_keeps_its_figures_and_their_page(client: Any, tracked: Paths) -> None:
    """As artifacts of its run, the page in nights/ too; what drifted stands first and in colour, every text escaped."""
    before = rows(*(f"{n:03}" for n in range(60)), language="<Latin>")
    tonight = before + rows(*(f"{n:03}" for n in range(60, 90)), language="Arabic")
    baseline = Baseline("champion", "champion 3", [before])
    measured = compare.compare(tonight, [baseline], DriftParams())
    run_id = mlflow_store.create_run(client, tracked, "register", {})
    kept_at = nights.keep(client, run_id, tracked, tonight, measured, [baseline], DriftParams())
    text = kept_at.read_text()
    cells = Page(text).texts
    assert kept_at == tracked.nights / "drift.html"
    assert Path(client.download_artifacts(run_id, "drift/drift.html")).read_text() == text
    assert "drift from champion 3: languages of prompts by 1.000" in text
    assert cells.index("languages of prompts ") < cells.index("drifted") < cells.index("length of prompts")
    place = cells.index("<Latin> 100%")
    assert cells[place - 1 : place + 2] == ["30 new, 60 before", "<Latin> 100%", "now Arabic 100%"]
    figures = json.loads(Path(client.download_artifacts(run_id, "drift/figures.json")).read_text())
    assert [row["figure"] for row in figures if row["drifted"]] == ["prompts.language"]
    logged = nights.figures(measured)
    assert (logged["drift.champion.prompts.language"], logged["drift.champion.prompts.length"]) == (1.0, 0.0)
    [language] = [each for each in measured if each.figure == "prompts.language"]
    assert logged["drift.champion.prompts.language.p"] == language.adjusted != language.p
    assert logged["drift.warnings"] == 1.0
    assert nights.figures([]) == {}


def found(baseline: str, figure: str, distance: float, p: float, drifted: bool = False, **more: Any) -> Measured:
    """A figure that was tested, its p adjusted to twice as much."""
    return Measured(baseline, figure, 60, 30, "new", distance, p, 2 * p, drifted, **more)


def test_the_page_has_all_figures_of_each_baseline_in_order() -> None:
    """What drifted first, then by p; each beside its own baseline, with what was not tested and why below."""
    baselines = [Baseline("champion", "champion 3", [[]]), Baseline("nights", "the last night", [[]])]
    measured = [
        found("champion", "prompts.length", 0.5, 0.25),
        found("champion", "prompts.language", 0.02, 0.0001),
        found("champion", "fixed_texts.level", 1.5, 0.002, drifted=True),
        Measured("champion", "rankings.ties", 0, 0, note="no rows"),
        Measured("champion", "rankings.annotator", 0, 0, note="no rows"),
        Measured("champion", "prompts.words", 3, 3, note="the rows are the same"),
        found("nights", "rankings.length", 0.1, 0.5),
    ]
    text = page.render(measured, baselines, DriftParams(alpha=0.02, min_distance=0.07))
    drawn, (champion, last) = Page(text), text.split("Beside ")[1:]
    titles = ["reward of fixed texts", "languages of prompts", "length of prompts", "length of ranked completions"]
    places = [text.index(f'<td data-head="figure">{title}') for title in titles]
    assert places == sorted(places)
    assert [cell for cell in drawn.given("class") if cell in ("drifted", "even")] == ["drifted"] + ["even"] * 3
    assert champion.startswith("champion 3")
    assert "length of ranked completions" not in champion
    assert last.startswith("the last night")
    assert "length of ranked completions" in last
    assert "Not tested (no rows): share of tied completions, annotators<" in champion
    assert "Not tested (the rows are the same): words of prompts<" in champion
    assert "differs by 0.07 or more with a p of\nall of 0.02 or less" in text
    for cells in ('"p of all">0.004<', '"p alone">0.002<', "width: 100%", "width: 50%", "30 new, 60 before"):
        assert cells in champion
    assert "150%" not in champion


def test_the_page_says_how_many_rows_stand_against_how_many() -> None:
    """New ones, those that are gone of all, or texts that both have; a champion of unknown data has no table."""
    unknown, last = Baseline("champion", "champion 3", None), Baseline("nights", "the last night", [[]])
    measured = [
        replace(found("nights", "prompts.length", 0.1, 0.5), change="gone"),
        replace(found("nights", "fixed_texts.order", 0.1, 0.5), change="none"),
    ]
    text = page.render(measured, [unknown, last], DriftParams())
    assert "30 gone of 90" in text
    assert "30 in both, 60 before" in text
    assert "Beside champion" not in text
    assert "champion 3 not known" in text
