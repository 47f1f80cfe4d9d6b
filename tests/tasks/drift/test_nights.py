"""The nights before, from MLflow alone: whose data tonight's are compared with, and what a night keeps for later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tasks.drift import compare, nights
from tasks.drift.compare import Baseline
from tasks.drift.profile import Profile, Traits
from tasks.params.register import DriftParams
from tasks.paths import Paths
from tasks.tracking import mlflow_store
from tests.tasks.html_page import Page


class Version(NamedTuple):
    """A policy version, as far as drift knows it."""

    version: str
    run_id: str


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
    for run_id in (bare, "0" * 32):
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
    page = nights.keep(client, run_id, tracked, tonight, measured, [baseline], DriftParams())
    text = page.read_text()
    cells = Page(text).texts
    assert page == tracked.nights / "drift.html"
    assert Path(client.download_artifacts(run_id, "drift/drift.html")).read_text() == text
    assert "drift from champion 3: languages of prompts by 1.000" in text
    assert cells.index("languages of prompts ") < cells.index("drifted") < cells.index("length of prompts")
    place = cells.index("<Latin> 100%")
    assert cells[place - 1 : place + 2] == ["30 new, 60 before", "<Latin> 100%", "now Arabic 100%"]
    figures = json.loads(Path(client.download_artifacts(run_id, "drift/figures.json")).read_text())
    assert [row["figure"] for row in figures if row["drifted"]] == ["prompts.language"]
    logged = nights.figures(measured)
    assert (logged["drift.champion.prompts.language"], logged["drift.champion.prompts.length"]) == (1.0, 0.0)
    assert logged["drift.champion.prompts.language.p"] < 0.01
    assert logged["drift.warnings"] == 1.0
    assert nights.figures([]) == {}
