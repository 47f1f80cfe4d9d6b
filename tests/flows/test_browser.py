"""A real browser at MLflow's real UI: two nights are found and compared, and nothing else than this machine is asked.

With NIGHTJAR_SCREENSHOTS naming a folder the pictures of the documentation are written there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flows.up import responds
from tasks.paths import Paths
from tasks.tracking import mlflow_store

if TYPE_CHECKING:
    from playwright.sync_api import Page

TWO_NIGHTS = ("night-2026-11-20-0200", "night-2026-11-21-0200")
"""What the shared workspace's nights are called."""
OURS = ("http://127.0.0.1", "data:", "blob:")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
PATIENCE_MS = 120_000
"""How long a page may take on a machine that is busy with other tests."""


@dataclass
class Window:
    """A page of a browser, and the addresses beyond this machine that it asked for."""

    page: Page
    asked_outside: list[str]


@pytest.fixture(scope="module")
def window(two_nights: Path, tmp_path_factory: pytest.TempPathFactory, processes_at: Any) -> Iterator[Window]:
    """A browser at `mlflow ui`, which is started in the workspace as a person would."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser on PATH; install one of {', '.join(BROWSERS)}")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    processes = processes_at(tmp_path_factory.mktemp("ui"))
    address = f"http://127.0.0.1:{os.environ['MLFLOW_PORT']}"
    ui = processes.start(two_nights, "-m", "mlflow", "ui", "--workers", "1")
    processes.until(lambda: responds(f"{address}/health") or ui.poll() is not None, within_s=400)
    assert ui.poll() is None, processes.said(ui)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 1180}, base_url=address)
            page.set_default_timeout(PATIENCE_MS)
            asked: list[str] = []
            page.on("request", lambda request: None if request.url.startswith(OURS) else asked.append(request.url))
            yield Window(page, asked)
        finally:
            browser.close()


def test_two_nights_are_compared_in_the_browser(two_nights: Path, window: Window) -> None:
    """From the experiment to the nights, two of them chosen, to the params and figures that differ, side by side."""
    page, client = window.page, mlflow_store.open_client(Paths(two_nights))
    page.goto(f"/#/experiments/{mlflow_store.experiment_id(client, Paths(two_nights))}/runs")
    for night in TWO_NIGHTS:
        page.get_by_text(night, exact=True).first.wait_for()
    # The assistant would cover a third of the page.
    page.get_by_role("button", name="Close").click()
    nights = page.get_by_role("row").filter(has_text="night-2026")
    assert nights.count() == 2  # the stages are folded away below them
    for place in range(2):
        nights.nth(place).get_by_role("checkbox").first.check(force=True)
    page.get_by_role("button", name="Compare", exact=True).first.click()
    page.get_by_text("Comparing 2 Runs").wait_for()
    page.get_by_role("button", name="Visualizations", exact=True).click()
    for section in ("Parameters", "Metrics"):
        page.get_by_role("switch", name=f"{section} - Show diff only").click()
    page.get_by_text("evaluate.policy.gold_low", exact=True).wait_for()
    if folder := os.environ.get("NIGHTJAR_SCREENSHOTS"):
        page.wait_for_timeout(1000)  # folding and unfolding are animated
        page.screenshot(path=Path(folder) / "comparing.png")
    shown = page.locator("body").inner_text()
    assert re.findall(r"^(policy\..*)\t(.*)\t(.*)$", shown, re.MULTILINE) == [("policy.kl.coefficient", "0.5", "0.05")]
    runs = mlflow_store.find_nights(client, Paths(two_nights), "night-")
    assert [run.info.run_name for run in runs] == list(reversed(TWO_NIGHTS))
    for figure in ("evaluate.policy.bleu", "evaluate.policy.gold", "evaluate.policy.gold_low"):
        assert figure in shown
        for run in runs:
            assert f"{round(run.data.metrics[figure], 3):g}" in shown.split(), figure
    assert window.asked_outside == []


def test_a_night_says_on_its_page_how_it_ended(two_nights: Path, window: Window) -> None:
    """In words, with its data sets and the params it had."""
    page, client = window.page, mlflow_store.open_client(Paths(two_nights))
    [night] = mlflow_store.find_nights(client, Paths(two_nights), TWO_NIGHTS[0])
    page.goto(f"/#/experiments/{night.info.experiment_id}/runs/{night.info.run_id}")
    page.get_by_text("not promoted: a trial").first.wait_for()
    page.get_by_text("data/validated/train").first.wait_for()
    page.get_by_text("policy.kl.coefficient").first.wait_for()
    assert window.asked_outside == []
