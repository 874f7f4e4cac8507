"""`headwater explore` read in a real browser: the main journeys, with keys and links, in light and dark."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import polars as pl
import pytest
from playwright.sync_api import Page, expect

from tests.orchestration.tiny_study import environment, headwater
from tests.ui.conftest import PATIENCE, WINDOW
from tests.ui.running import free_ports

FIRST_VIEW_SECONDS, NEXT_VIEW_SECONDS = 4.0, 2.0
"""Generous, for a busy machine: the figures that count are measured by the benchmark."""


@pytest.fixture(scope="module")
def address(desk):
    """Where the explorer answers."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "orchestration.cli", "explore", "--port", str(port)]
    process = subprocess.Popen(command, env=environment(desk.home), stderr=subprocess.PIPE, text=True)
    assert f"http://127.0.0.1:{port}" in process.stderr.readline()
    address = f"http://127.0.0.1:{port}"
    for _ in range(200):
        try:
            urllib.request.urlopen(address, timeout=5)
            break
        except urllib.error.URLError:
            time.sleep(0.1)
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(20) in (0, -signal.SIGINT, 130)


@pytest.fixture
def reader(browser, address, screenshots, request):
    """A fresh profile, on which every message of the page's console and every failed request is a failure."""
    context = browser.new_context(viewport=WINDOW, base_url=address)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    context.set_default_timeout(PATIENCE)
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if not asked.url.startswith(address) else None)
    yield page
    page.screenshot(path=screenshots / f"{request.node.name}.png")
    context.close()
    assert wrong == []


def rankings(desk) -> pl.DataFrame:
    return pl.scan_delta(desk.table("study/tiny/rankings")).collect()


def test_from_a_study_to_the_tokens_of_a_document(reader: Page, desk, keep):
    began = time.monotonic()
    reader.goto("/")
    expect(reader.get_by_role("link", name="tiny")).to_be_visible()
    assert time.monotonic() - began < FIRST_VIEW_SECONDS
    reader.get_by_role("link", name="tiny").click()
    reader.get_by_role("link", name="given", exact=True).click()
    rows = rankings(desk).filter(query_id="given", method="ekfac", ranking="normed", end="top").sort("rank")
    expect(reader.locator(".ranking > li")).to_have_count(len(rows))
    expect(reader.locator(".read h2")).to_have_text(rows["document_id"][0])
    assert reader.locator(".tokens .t").count() > 0
    keep(reader, "explorer query")
    began = time.monotonic()
    reader.locator(".ranking > li a").nth(1).click()
    expect(reader.locator(".read h2")).to_have_text(rows["document_id"][1])
    assert time.monotonic() - began < NEXT_VIEW_SECONDS
    reader.get_by_role("link", name="against it").click()
    worst = rankings(desk).filter(query_id="given", method="ekfac", ranking="normed", end="bottom").sort("rank")
    expect(reader.locator(".read h2")).to_have_text(worst["document_id"][0])
    permalink = reader.url
    reader.locator(".read h2 a").click()
    expect(reader.get_by_role("heading", name="Queries that it drives")).to_be_visible()
    keep(reader, "explorer document")
    reader.goto(permalink)
    expect(reader.locator(".read h2")).to_have_text(worst["document_id"][0])


def test_by_the_keyboard_alone(reader: Page):
    reader.goto("/study?study=tiny")
    reader.keyboard.press("j")
    reader.keyboard.press("j")
    reader.keyboard.press("Enter")
    expect(reader).to_have_url(re.compile("/query"))
    first = reader.locator("h1").inner_text()
    reader.keyboard.press("]")
    expect(reader.locator("h1")).not_to_have_text(first)
    reader.keyboard.press("[")
    expect(reader.locator("h1")).to_have_text(first)
    reader.goto("/search?study=tiny")
    reader.keyboard.press("/")
    reader.keyboard.type("the river")
    reader.keyboard.press("Enter")
    expect(reader.locator(".hits li").first).to_be_visible()


def test_copied_sql_gives_the_rows_of_the_view(reader: Page, desk):
    reader.goto("/query?study=tiny&query=given&ranking=raw")
    reader.get_by_text("SQL behind this view").click()
    reader.get_by_role("button", name="Copy").click()
    expect(reader.get_by_role("button", name="Copied")).to_be_visible()
    sql = reader.evaluate("navigator.clipboard.readText()")
    result = headwater(desk.home, "sql", "--csv", sql)
    rows = rankings(desk).filter(query_id="given", method="ekfac", ranking="raw", end="top").sort("rank")
    assert pl.read_csv(result.stdout.encode())["document_id"].to_list() == rows["document_id"].to_list()


def test_export_and_findings(reader: Page, keep):
    reader.goto("/query?study=tiny&query=given")
    with reader.expect_download() as download:
        reader.get_by_role("link", name="Parquet").click()
    assert pl.read_parquet(download.value.path())["query_id"].unique().to_list() == ["given"]
    reader.goto("/findings?study=tiny")
    figures = reader.locator("figure img")
    for at in range(figures.count()):
        figures.nth(at).scroll_into_view_if_needed()
        expect(figures.nth(at)).to_have_js_property("complete", True)
        assert figures.nth(at).evaluate("image => image.naturalWidth") > 200
    keep(reader, "explorer findings")


def test_dark(reader: Page, keep):
    reader.emulate_media(color_scheme="dark")
    reader.goto("/query?study=tiny&query=given")
    red, green, blue = map(
        int, re.findall(r"\d+", reader.locator("body").evaluate("b => getComputedStyle(b).backgroundColor"))[:3]
    )
    assert red + green + blue < 150
    keep(reader, "explorer dark")
