"""A browser, `headwater ui` on a home in which the tiny study has run, and screenshots of what was seen.

Screenshots go to the directory that HEADWATER_SCREENSHOTS names, or to a temporary one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.orchestration.tiny_study import headwater, write_study
from tests.ui.browser import FLAGS, installed
from tests.ui.running import RunningUI

WINDOW = {"width": 1600, "height": 1000}
PATIENCE = 20_000
"""Milliseconds that a page may take to show what it is asked for; work has its own limits."""
expect.set_options(timeout=PATIENCE)


@dataclass(frozen=True)
class Desk:
    """What a person has in front of them: a study's files, its home, and both addresses."""

    study: Path
    home: Path
    dagster: str
    mlflow: str
    ui: RunningUI

    @property
    def corpus(self) -> Path:
        return self.study.parent / "corpus"

    def table(self, path: str) -> str:
        return str(self.home / "lake" / path)


@pytest.fixture(scope="session")
def desk(tmp_path_factory) -> Iterator[Desk]:
    directory = tmp_path_factory.mktemp("ui")
    study, home = write_study(directory), directory / "home"
    result = headwater(home, "run", study)
    assert result.returncode == 0, result.stderr
    with RunningUI(home) as ui:
        ui.until_it_says("Ctrl-C")
        yield Desk(study, home, ui.dagster, ui.mlflow, ui)
        assert ui.stop() == 0, ui.said
        assert ui.processes() == []


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = installed()
    assert path, "there is no Chromium; make test-ui installs one"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory) -> Path:
    named = os.environ.get("HEADWATER_SCREENSHOTS")
    directory = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture
def page(browser, desk, screenshots, request) -> Iterator[Page]:
    """A fresh profile; its last sight is kept, also of a test that failed."""
    context = browser.new_context(viewport=WINDOW, base_url=desk.dagster)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    yield page
    page.screenshot(path=screenshots / f"{request.node.name}.png")
    context.close()


@pytest.fixture
def keep(screenshots):
    """Keeps what a page shows now, under a name."""

    def keep(page: Page, name: str) -> None:
        page.screenshot(path=screenshots / f"{name}.png")

    return keep
