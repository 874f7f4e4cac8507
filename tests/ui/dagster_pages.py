"""What a person does on Dagster's pages, by the words that they read there."""

from __future__ import annotations

import contextlib
import re

from playwright.sync_api import Locator, Page, TimeoutError, expect

A_RUN = 90_000
"""Milliseconds from a click to the end of a short run: the daemon looks every 30 seconds, then processes start."""
A_RELOAD = 60_000
A_MOMENT = 3_000
TRIES = 5


def open_asset(page: Page, path: str, view: str = "overview", **query: str) -> None:
    page.goto(f"/assets/{path}?view={view}" + "".join(f"&{name}={value}" for name, value in query.items()))
    expect(page.get_by_text("Assets", exact=True).first).to_be_visible()


def reload_definitions(page: Page) -> None:
    """The button on the catalog, until Dagster says that it is done."""
    page.goto("/assets")
    page.get_by_role("button", name="Reload definitions").click()
    expect(page.get_by_text(re.compile("Definitions reloaded|Code location reloaded"))).to_be_visible(timeout=A_RELOAD)


def materialize(page: Page, path: str) -> None:
    """An asset in one piece: one click."""
    open_asset(page, path)
    page.get_by_role("button", name="Materialize").first.click()


def materialize_shards(page: Page, paths: list[str], shards: list[str]) -> None:
    """Assets that are ticked in the catalog, for some shards."""
    window = page.viewport_size
    page.set_viewport_size({"width": window["width"], "height": 6000})  # the catalog draws only what is in sight
    page.goto("/assets")
    for path in paths:
        page.get_by_test_id(f"checkbox-{path}").locator("xpath=..").click()  # the box that is drawn in its place
    page.set_viewport_size(window)
    page.get_by_role("button", name="Materialize selected").click()
    choose = page.get_by_text("Select a partition or create one")
    confirm = page.get_by_role("button", name="Confirm")  # a step that writes several tables names the others first
    expect(choose.or_(confirm).first).to_be_visible()
    if confirm.is_visible():
        confirm.click()
    for shard in shards:
        _choose(page, shard)
    page.get_by_text(re.compile("^Launch runs? to materialize")).click()  # closes the list
    expect(page.get_by_text(f"{len(shards)} partition{'s' if len(shards) > 1 else ''}", exact=True)).to_be_visible()
    page.get_by_role("button", name=re.compile("^Launch")).last.click()


def _choose(page: Page, shard: str) -> None:
    """In the dialog's list of partitions, which closes when the page behind it refreshes: then it is opened again."""
    field = page.locator("[class*=TagSelector_tagSelectorContainer]")
    entry, chosen = page.get_by_role("menuitem").filter(has_text=shard), field.get_by_text(shard, exact=True).first
    for _ in range(TRIES):
        if chosen.is_visible():
            break
        if not entry.is_visible():
            field.get_by_role("img", name="expand_more").click()
        with contextlib.suppress(TimeoutError, AssertionError):
            entry.click(timeout=A_MOMENT)
            expect(chosen).to_be_visible(timeout=A_MOMENT)
    expect(chosen).to_be_visible()


def open_what_was_launched(page: Page) -> None:
    """Follows the notice: a run, or a backfill where several shards are asked for."""
    expect(page.get_by_text(re.compile("(Launched run|Created backfill) "))).to_be_visible()
    page.get_by_text("View", exact=True).last.click()
    page.wait_for_url(re.compile("/runs/"))


def group(page: Page, name: str) -> Locator:
    """On the graph: a group's entry in the list at its side."""
    return page.get_by_role("button", name=re.compile(rf"\b{name}\b"))


def expect_run(page: Page, status: str, timeout: float = A_RUN) -> None:
    """On a run's page: the tag beside its id, since the words stand elsewhere too."""
    heading = page.locator("[class*=PageHeader_titleRow]")
    ended = re.compile("^(Success|Failure|Canceled)$")
    expect(heading.get_by_text(ended).first).to_be_visible(timeout=timeout)
    expect(heading.get_by_text(ended).first).to_have_text(status)


def expect_materialized(page: Page, path: str, count: int, missing: int = 0, timeout: float = A_RUN) -> None:
    """On an asset's page of partitions: the number of shards by state, which goes up by itself."""
    open_asset(page, path, "partitions")
    expect(page.get_by_text(f"Materialized ({count})")).to_be_visible(timeout=timeout)
    expect(page.get_by_text(f"Missing ({missing})")).to_be_visible()


def shard_metadata(page: Page, key: str) -> Locator:
    """On an asset's page of partitions, with one shard chosen: the cell beside an entry's name."""
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=key, exact=True))
    return row.get_by_role("cell").nth(1)
