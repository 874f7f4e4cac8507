"""Journeys through the interfaces as a person makes them, with real servers, runs and tables."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import polars as pl
from deltalake import DeltaTable
from playwright.sync_api import expect

from assets.study.influence import influence_table
from tests.orchestration.tiny_study import headwater, records, write_jsonl, write_study
from tests.ui import dagster_pages as dagster
from tests.ui.conftest import Desk
from tests.ui.waiting import until

GROUPS = ("corpus_tiny", "model_tiny", "queries_tiny", "curvature_tiny", "study_tiny")
LONG_SHARD = 20_000
"""Records: a minute or two of work, of which a test sees the first seconds."""


def test_the_graph_tells_the_study(page, desk, keep):
    page.goto("/asset-groups")
    for group in GROUPS:
        expect(dagster.group(page, group)).to_be_visible()
    expect(page.get_by_text("fetching statuses")).to_have_count(0)
    keep(page, "graph")
    page.goto("/runs")
    expect(page.get_by_role("link").filter(has_text=re.compile("^study_tiny"))).to_have_count(
        2
    )  # made by `headwater run`
    expect(page.get_by_text("Success", exact=True)).to_have_count(2)
    keep(page, "runs")


def test_an_asset_says_what_its_rows_and_columns_are(page, desk):
    table = influence_table("tiny")
    page.goto("/assets")
    page.get_by_role("textbox").first.fill("influence")
    page.keyboard.press("Enter")
    found = page.get_by_role("link").filter(has_text="study / tiny / influence").first
    expect(found).to_be_attached()
    page.locator("body").click(position={"x": 800, "y": 900})  # the filter's suggestions lie over the list until then
    expect(page.get_by_text("to navigate", exact=True)).to_have_count(0)
    found.click()
    expect(page.get_by_text(re.compile(f"^{table.grain}", re.IGNORECASE)).first).to_be_visible()
    for column in table.columns:
        row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=column.name, exact=True))
        expect(row.filter(has_text=column.description)).to_be_visible()
    expect(page.get_by_text("study_tiny", exact=True).first).to_be_visible()


def test_new_files_are_scored_by_hand_and_lead_to_their_mlflow_run(page, desk, keep):
    _drop_file(desk.corpus, "part3.jsonl")
    _drop_file(desk.corpus, "part4.jsonl")
    versions = {name: _version(desk, f"study/tiny/{name}") for name in ("influence", "query_gradients")}
    dagster.materialize(page, "corpus/tiny/shards")
    dagster.open_what_was_launched(page)
    dagster.expect_run(page, "Success")
    dagster.expect_materialized(page, "study/tiny/influence", 3, missing=2)

    steps = ["corpus/tiny/records", "corpus/tiny/documents", "study/tiny/influence"]
    dagster.materialize_shards(page, steps, ["00003", "00004"])
    dagster.open_what_was_launched(page)
    dagster.expect_materialized(page, "study/tiny/influence", 5)
    keep(page, "partitions")
    rows = pl.scan_delta(desk.table("study/tiny/influence")).collect()
    assert sorted(set(rows["shard"])) == ["00000", "00001", "00002", "00003", "00004"]
    assert _version(desk, "study/tiny/influence") == versions["influence"] + 2  # a commit per shard
    assert _version(desk, "study/tiny/query_gradients") == versions["query_gradients"]

    dagster.open_asset(page, "study/tiny/influence", "partitions", partition="00004")
    expect(dagster.shard_metadata(page, "dagster/row_count")).to_have_text(str(rows.filter(shard="00004").height))
    expect(dagster.shard_metadata(page, "Delta version")).to_have_text(str(versions["influence"] + 2))
    keep(page, "metadata")
    with page.context.expect_page() as opened:
        dagster.shard_metadata(page, "MLflow run").get_by_role("link").first.click()
    mlflow = opened.value
    mlflow.set_viewport_size(page.viewport_size)
    assert mlflow.url.startswith(desk.mlflow)
    expect(mlflow.get_by_role("heading", name="study/tiny/influence")).to_be_visible()
    expect(mlflow.get_by_text("Finished", exact=True).first).to_be_visible()
    expect(mlflow.get_by_text("headwater/tiny").first).to_be_visible()  # the study's experiment
    expect(mlflow.get_by_role("link", name=re.compile("^Dagster run"))).to_have_attribute(
        "href", re.compile(f"^{desk.dagster}/runs/")
    )
    keep(mlflow, "mlflow_run")


def test_a_run_that_is_cancelled_stops_and_leaves_the_tables_as_they_were(page, desk, keep):
    study = write_study(
        desk.study.parent / "long",
        study="long",
        corpus={"name": "long", "shard_records": 1_000_000},
        options={"token_budget": 32},
        **{part: {"name": "long"} for part in ("model", "curvature", "queries")},
    )
    assert headwater(desk.home, "run", study).returncode == 0
    _drop_file(study.parent / "corpus", "long.jsonl", LONG_SHARD)
    dagster.reload_definitions(page)
    dagster.materialize(page, "corpus/long/shards")
    dagster.open_what_was_launched(page)
    dagster.expect_run(page, "Success")
    dagster.materialize_shards(page, ["corpus/long/records", "corpus/long/documents"], ["00001"])
    dagster.open_what_was_launched(page)
    dagster.expect_run(page, "Success")
    tables = [f"study/long/{name}" for name in ("influence", "document_norms", "candidates")]
    versions = [_version(desk, table) for table in tables]

    dagster.materialize_shards(page, ["study/long/influence"], ["00001"])
    dagster.open_what_was_launched(page)
    expect(page.get_by_text(re.compile(r"influence: [\d,]+ of [\d,]+ documents")).first).to_be_visible(timeout=60_000)
    keep(page, "progress")
    page.get_by_role("button", name="Terminate").first.click()
    page.get_by_role("button", name="Terminate 1 run").click()
    dagster.expect_run(page, "Canceled", timeout=30_000)
    until(lambda: not _workers(desk), "the run's processes end", seconds=20)
    assert [_version(desk, table) for table in tables] == versions
    dagster.expect_materialized(page, "study/long/influence", 1, missing=1)


def test_a_file_that_is_dropped_into_the_corpus_is_scored_without_a_hand_on_it(page, desk, keep):
    study = write_study(
        desk.study.parent / "watched",
        study="watched",
        automation={"watch": True, "every_seconds": 10, "settle_seconds": 1},
        **{part: {"name": "watched"} for part in ("corpus", "model", "curvature", "queries")},
    )
    assert headwater(desk.home, "run", study).returncode == 0
    fit = _version(desk, "curvature/watched/eigenvalues")
    rankings = _version(desk, "study/watched/rankings")
    dagster.reload_definitions(page)
    _drop_file(study.parent / "corpus", "part3.jsonl")
    until(lambda: "00003" in _shards(desk, "watched"), "the new shard's influence rows are there", seconds=240)
    until(lambda: _version(desk, "study/watched/rankings") > rankings, "the rankings follow", seconds=120)
    assert _shards(desk, "watched") == {"00000", "00001", "00002", "00003"}
    assert _version(desk, "curvature/watched/eigenvalues") == fit
    dagster.expect_materialized(page, "study/watched/influence", 4)
    keep(page, "watched")


def test_a_bad_study_is_shown_and_the_others_work(page, desk, keep):
    bad = desk.home / "studies" / "bad.yaml"
    bad.write_text("study: bad\ncorpsu: {}\n")
    try:
        dagster.reload_definitions(page)
        dagster.open_asset(page, "study/bad")
        expect(page.get_by_text(re.compile(r"bad\.yaml:2 corpsu: is not a known field"))).to_be_visible()
        keep(page, "bad_study")
        dagster.materialize(page, "corpus/tiny/shards")
        dagster.open_what_was_launched(page)
        dagster.expect_run(page, "Success")
    finally:
        bad.unlink()
    dagster.reload_definitions(page)
    page.goto("/asset-groups")
    expect(dagster.group(page, "study_tiny")).to_be_visible()
    expect(dagster.group(page, "studies_left_out")).to_have_count(0)


def _drop_file(corpus: Path, name: str, count: int = 30) -> None:
    """A file that appears whole, as one that is moved there does."""
    texts = records()
    rows = [texts[number % len(texts)] | {"id": f"{name}-{number}"} for number in range(count)]
    write_jsonl(corpus / f".{name}", rows)
    shutil.move(corpus / f".{name}", corpus / name)


def _version(desk: Desk, table: str) -> int:
    return DeltaTable(desk.table(table)).version()


def _shards(desk: Desk, study: str) -> set[str]:
    return set(pl.scan_delta(desk.table(f"study/{study}/influence")).select("shard").collect()["shard"])


def _workers(desk: Desk) -> list[str]:
    """Command lines of the processes of runs and their steps."""
    return [line for line in desk.ui.command_lines() if re.search("spawn_main|forkserver", line)]
