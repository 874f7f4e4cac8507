"""How long Dagster's pages take for a corpus of many shards: python -m benchmarks.ui_many_shards [SHARDS]

A small study is run; then files are added up to the number wanted and listed, and Dagster is told that all of their
shards are materialized, which is what its pages read. `headwater ui` is started on it and looked at in a headless
Chromium (make test-ui installs one). Seconds are from the click to what a person waits for.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.generated_study import GeneratedStudy, opened_for_now
from orchestration.automation import corpus_keys
from orchestration.graph import job_name, shard_keys, shards_key, study_assets_once, study_job
from orchestration.home import Home
from orchestration.resources import resources_of
from orchestration.run import QUIET, run_study
from tests.ui.browser import FLAGS, installed
from tests.ui.dagster_pages import open_asset
from tests.ui.running import RunningUI

TINY = GeneratedStudy("many", records=8, words=20, max_tokens=32, hidden_size=32, layers=2, rank=4)
MOST_MILLISECONDS = 120_000
"""Milliseconds after which a page counts as not usable."""


def main(shards: int) -> None:
    logging.disable(logging.WARNING)
    with opened_for_now(TINY) as opened:
        study, home, instance, root = opened.study, opened.home, opened.instance, opened.root
        TINY.write_shard(root, 0)
        run_study(study, instance, resources_of(home))
        for number in range(1, shards):
            TINY.write_shard(root, number)
        _list(study, instance, home)
        _tell_materialized(study, instance)
        with RunningUI(home.root) as ui:
            ui.until_it_says("Ctrl-C")
            _look(ui.dagster, shards, root)


def _list(study, instance: dg.DagsterInstance, home: Home) -> None:
    definitions = dg.Definitions(study_assets_once([study]), jobs=[study_job(study)], resources=resources_of(home))
    job = definitions.resolve_job_def(job_name(study))
    assert job.execute_in_process(instance=instance, asset_selection=[shards_key(study)], run_config=QUIET).success


def _tell_materialized(study, instance: dg.DagsterInstance) -> None:
    scores = [dg.AssetKey(["study", study.name, name]) for name in ("influence", "document_norms", "candidates")]
    for key in (*corpus_keys(study), *scores):
        for shard in shard_keys(study, instance):
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=shard))


def _look(address: str, shards: int, screenshots: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed(), headless=True, args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1600, "height": 1000}, base_url=address)
        page.set_default_timeout(MOST_MILLISECONDS)
        expect.set_options(timeout=MOST_MILLISECONDS)
        open_asset(page, "study/many/influence")  # the browser loads the application once
        _say(page, "catalog", _catalog, shards)
        _say(page, "graph of all assets", _graph, shards)
        _say(page, "partitions of influence", _partitions, shards)
        _say(page, "one shard of them", _one_shard, shards)
        _say(page, "dialog to materialize them", _dialog, shards)
        page.screenshot(
            full_page=True, path=os.environ.get("HEADWATER_SCREENSHOTS", str(screenshots)) + "/many_shards.png"
        )
        browser.close()


def _say(page: Page, name: str, look: Callable[[Page, int], None], shards: int) -> None:
    started = time.monotonic()
    look(page, shards)
    print(json.dumps({"shards": shards, "page": name, "seconds": round(time.monotonic() - started, 2)}), flush=True)


def _catalog(page: Page, shards: int) -> None:
    page.goto("/assets")
    expect(page.get_by_text("Reload definitions")).to_be_visible()
    expect(page.get_by_text(f"{shards:,} partitions").first).to_be_visible()


def _graph(page: Page, shards: int) -> None:
    page.goto("/asset-groups")
    expect(page.get_by_role("button", name=re.compile("corpus_many"))).to_be_visible()


def _partitions(page: Page, shards: int) -> None:
    open_asset(page, "study/many/influence", "partitions")
    expect(page.get_by_text(re.compile(rf"Materialized \({shards}\)"))).to_be_visible()


def _one_shard(page: Page, shards: int) -> None:
    open_asset(page, "study/many/influence", "partitions", partition=f"{shards // 2:05d}")
    expect(page.get_by_text(re.compile("Materialized in run|Materialized"))).not_to_have_count(0)


def _dialog(page: Page, shards: int) -> None:
    open_asset(page, "study/many/influence", "partitions")
    page.get_by_role("button", name=re.compile("^Materialize")).first.click()
    confirm = page.get_by_role("button", name="Confirm")  # the step writes other tables too, which it names first
    launch = page.get_by_role("button", name=re.compile("^Launch"))
    expect(confirm.or_(launch).first).to_be_visible()
    if confirm.is_visible():
        confirm.click()
    expect(launch.last).to_be_visible()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
