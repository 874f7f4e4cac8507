"""`headwater explore` read in a real browser: the main journeys, with keys and links, in light and dark."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
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


def ready(page: Page) -> None:
    """Once the page that is seen obeys keys."""
    page.wait_for_load_state("load")


def test_from_a_study_to_the_tokens_of_a_document(reader: Page, desk, keep):
    began = time.monotonic()
    reader.goto("/")
    expect(reader.get_by_role("link", name="tiny")).to_be_visible()
    assert time.monotonic() - began < FIRST_VIEW_SECONDS
    reader.get_by_role("link", name="tiny").click()
    reader.get_by_role("link", name="given", exact=True).click()
    rows = rankings(desk).filter(query_id="given", method="ekfac", ranking="normed", end="top").sort("rank")
    expect(reader.locator(".ranking li")).to_have_count(len(rows))
    expect(reader.locator(".read h2")).to_have_text(rows["document_id"][0])
    assert reader.locator(".tokens .t").count() > 0
    keep(reader, "explorer query")
    began = time.monotonic()
    reader.locator(".ranking > li > a").nth(1).click()
    expect(reader.locator(".read h2")).not_to_have_text(rows["document_id"][0])
    assert time.monotonic() - began < NEXT_VIEW_SECONDS
    reader.get_by_role("link", name="most negative").click()
    worst = rankings(desk).filter(query_id="given", method="ekfac", ranking="normed", end="bottom").sort("rank")
    expect(reader.locator(".read h2")).to_have_text(worst["document_id"][0])
    reader.wait_for_url("**end=bottom*")
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
    ready(reader)
    first = reader.locator("h1").inner_text()
    reader.keyboard.press("]")
    expect(reader.locator("h1")).not_to_have_text(first)
    ready(reader)
    reader.keyboard.press("[")
    expect(reader.locator("h1")).to_have_text(first)
    ready(reader)
    reader.keyboard.press("e")
    expect(reader.get_by_role("link", name="most negative")).to_have_attribute("aria-current", "true")
    reader.keyboard.press("m")
    expect(reader.get_by_role("link", name="Gradient dot product").first).to_have_attribute("aria-current", "true")
    reader.keyboard.press("d")
    expect(reader.get_by_role("heading", name="Queries that it drives")).to_be_visible()
    ready(reader)
    reader.keyboard.press("/")
    expect(reader).to_have_url(re.compile("/search"))
    ready(reader)
    reader.keyboard.press("/")
    reader.keyboard.type("the river")
    reader.keyboard.press("Enter")
    expect(reader.locator(".hits li").first).to_be_visible()


def test_copied_sql_gives_the_rows_of_the_view(reader: Page, desk):
    reader.goto("/query?study=tiny&query=given&ranking=raw")
    reader.get_by_role("button", name="Copy the SQL").click()
    expect(reader.get_by_text("Copied", exact=True)).to_be_visible()
    sql = reader.evaluate("navigator.clipboard.readText()")
    result = headwater(desk.home, "sql", "--csv", sql)
    rows = rankings(desk).filter(query_id="given", method="ekfac", ranking="raw", end="top").sort("rank")
    assert pl.read_csv(result.stdout.encode())["document_id"].to_list() == rows["document_id"].to_list()


def test_documents_are_read_in_place(reader: Page):
    """The list stays where it is, with the focus in it, and the browser's Back goes back."""
    reader.set_viewport_size({"width": 1200, "height": 260})
    reader.goto("/query?study=tiny&query=given&ranking=raw")
    first = reader.locator(".read h2").inner_text()
    reader.keyboard.press("k")  # the last of the list
    scrolled = reader.evaluate("scrollY")
    assert scrolled > 0
    reader.keyboard.press("Enter")
    expect(reader.locator(".read h2")).not_to_have_text(first)
    expect(reader.locator(".ranking a:focus")).to_have_attribute("aria-current", "true")
    assert abs(reader.evaluate("scrollY") - scrolled) < 40
    reader.go_back()
    expect(reader.locator(".read h2")).to_have_text(first)


def test_beside_another_method_and_of_one_source(reader: Page, desk, keep):
    reader.goto("/query?study=tiny&query=given")
    reader.get_by_role("group", name="beside").get_by_role("link", name="Gradient dot product").click()
    expect(reader.locator(".ranking")).to_have_count(2)
    expect(reader.get_by_text("documents are in both lists")).to_be_visible()
    keep(reader, "explorer beside")
    rows = rankings(desk).filter(query_id="given", method="ekfac", ranking="normed", end="top").sort("rank")
    source = rows["source"][0]
    reader.get_by_role("group", name="source").get_by_role("link", name=source).click()
    expect(reader.get_by_role("group", name="source").locator("[aria-current]")).to_contain_text(source)
    expect(reader.locator(".ranking").first.locator("li")).to_have_count(len(rows.filter(source=source)))
    reader.goto(f"{reader.url}&source=nowhere".replace(f"source={source}&", ""))
    expect(reader.get_by_text("No document of source nowhere is listed at this end")).to_be_visible()


def test_filters_and_nothing_found(reader: Page, keep):
    reader.goto("/study?study=tiny")
    reader.get_by_label("kind").select_option("factual")
    expect(reader.get_by_text("1 of 3 queries")).to_be_visible()
    reader.locator(".queries a").click()
    expect(reader.get_by_text("1 of 1")).to_be_visible()
    ready(reader)
    reader.keyboard.press("u")
    expect(reader.get_by_label("kind")).to_have_value("factual")
    reader.get_by_label("words").fill("no such words")
    reader.keyboard.press("Enter")
    expect(reader.get_by_text("No query is like that")).to_be_visible()
    keep(reader, "explorer nothing found")


def test_a_document_and_all_its_queries(reader: Page, desk, keep):
    scores = pl.scan_delta(desk.table("study/tiny/influence")).filter(method="ekfac").collect()
    document = scores["document_id"][0]
    own = scores.filter(document_id=document).sort("score", descending=True)["query_id"].to_list()
    reader.goto("/document?" + urllib.parse.urlencode({"study": "tiny", "document": document}))
    expect(reader.locator(".scored a")).to_have_text(own)
    expect(reader.get_by_text("gradient norm")).to_be_visible()
    keep(reader, "explorer document of all queries")
    reader.locator(".scored a").first.click()
    expect(reader.locator("h1")).to_have_text(own[0])


def test_a_page_that_takes_long_says_so(reader: Page):
    reader.goto("/query?study=tiny&query=given")
    held = []
    reader.route("**/query?*end=bottom*", lambda route: held.append(route))
    reader.get_by_role("link", name="most negative").click()
    expect(reader.get_by_role("status").filter(has_text="Reading the lake")).to_be_visible()
    held.pop().continue_()
    expect(reader.get_by_role("link", name="most negative")).to_have_attribute("aria-current", "true")
    expect(reader.locator(".note")).to_be_hidden()


def test_search_looks_again_once_its_field_is_left(reader: Page):
    reader.goto("/search?study=tiny&words=cat")
    field = reader.get_by_label("words")
    field.fill("cat and")
    reader.evaluate("document.querySelector('h1').dataset.again = ''; window.still = true; later()")
    reader.wait_for_timeout(4_000)  # past the first time
    assert reader.evaluate("window.still") and field.input_value() == "cat and"
    with reader.expect_navigation():
        field.blur()
    assert not reader.evaluate("window.still")


def test_help_and_theme(reader: Page, keep):
    reader.goto("/")
    reader.keyboard.press("?")
    expect(reader.get_by_role("dialog")).to_be_visible()
    keep(reader, "explorer help")
    reader.keyboard.press("Escape")
    expect(reader.get_by_role("dialog")).to_be_hidden()
    light = ground(reader)
    reader.keyboard.press("t")
    reader.keyboard.press("t")
    expect(reader.locator("html")).to_have_attribute("data-theme", "dark")
    assert ground(reader) < 150 < light
    reader.get_by_role("link", name="tiny", exact=True).click()
    expect(reader.locator("html")).to_have_attribute("data-theme", "dark")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_every_page_fits_its_window(reader: Page, desk, keep, width, scheme):
    document = rankings(desk)["document_id"][0].replace("#", "%23")
    reader.set_viewport_size({"width": width, "height": 900})
    reader.emulate_media(color_scheme=scheme)
    for name, address in {
        "studies": "/",
        "study": "/study?study=tiny",
        "query": "/query?study=tiny&query=given",
        "beside": "/query?study=tiny&query=given&beside=tiny&beside_method=dot",
        "document": f"/document?study=tiny&document={document}",
        "search": "/search?study=tiny&words=the+river",
        "findings": "/findings?study=tiny",
    }.items():
        reader.goto(address)
        expect(reader.locator("h1")).to_have_count(1)
        assert reader.evaluate("document.documentElement.scrollWidth") <= width, name
        keep(reader, f"explorer {name} {width} {scheme}")


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


def ground(page: Page) -> int:
    """How light the page is: 0 is black, 765 white."""
    colour = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def test_dark(reader: Page, keep):
    reader.emulate_media(color_scheme="dark")
    reader.goto("/query?study=tiny&query=given")
    assert ground(reader) < 150
    keep(reader, "explorer dark")
