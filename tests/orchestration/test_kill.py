"""A run that is killed in the middle of a shard: the tables stay as they were, and the next run completes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import dagster as dg
import polars as pl
import pytest
from deltalake import DeltaTable

from orchestration.run import STOPPED
from tests.orchestration.tiny_study import environment, headwater, write_study

PAUSE_IN_SHARD = """
import os, sys, time
import assets.study.influence as stage

score = stage._score_shard

def paused(step, study, influence_pass, keys, shard, documents, on_batch):
    def stop_here(*_):
        open(os.environ["REACHED"], "w").close()
        time.sleep(600)
    return score(step, study, influence_pass, keys, shard, documents, stop_here if shard == "00001" else on_batch)

stage._score_shard = paused
from orchestration.cli import main
main()
"""
PAUSE_BETWEEN_TABLES = """
import os, sys, time
from assets.lake.lake import Lake

overwrite = Lake.overwrite

def paused(lake, table, data, *, where=None, commit):
    if table.key[-1] == "influence" and where == {"shard": "00001"}:
        open(os.environ["REACHED"], "w").close()
        time.sleep(600)
    return overwrite(lake, table, data, where=where, commit=commit)

Lake.overwrite = paused
from orchestration.cli import main
main()
"""


def _until(path, process, seconds=200):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the run ended before it reached the shard"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _shards(home, table="influence") -> set[str]:
    return set(pl.scan_delta(str(home / f"lake/study/tiny/{table}")).collect()["shard"])


def _until_written(home, shard, process) -> None:
    """It is written behind, while the next one is worked on."""
    deadline = time.monotonic() + 60
    while shard not in _shards(home):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "pause", [PAUSE_IN_SHARD, pytest.param(PAUSE_BETWEEN_TABLES, marks=pytest.mark.slow)], ids=["in shard", "in write"]
)
def test_a_killed_run_leaves_whole_shards_and_is_completed_by_the_next(finished, tmp_path, pause):
    """Killed while it works on the second shard, or writes it: of its tables influence is last, and has no rows of it
    then."""
    study, home, reached = write_study(tmp_path), tmp_path / "home", tmp_path / "reached"
    process = subprocess.Popen(
        [sys.executable, "-c", pause, "run", str(study)],
        env=environment(home) | {"REACHED": str(reached)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        _until(reached, process)
        _until_written(home, "00000", process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert _shards(home) == {"00000"}
    assert _shards(home, "document_norms") == ({"00000"} if pause == PAUSE_IN_SHARD else {"00000", "00001"})
    version = DeltaTable(str(home / "lake/study/tiny/influence")).version()

    result = headwater(home, "run", study)
    assert result.returncode == 0, result.stderr
    assert DeltaTable(str(home / "lake/study/tiny/influence")).version() == version + 2  # the two missing shards alone
    rows = pl.scan_delta(str(home / "lake/study/tiny/influence")).collect()
    keys = ["shard", "method", "query_id", "document_id"]
    whole = finished.table("study/tiny/influence").sort(keys)
    assert rows.sort(keys).equals(whole)  # to the last digit, with the same fingerprints


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_at_the_first_asking_and_goes_on_later(tmp_path):
    """Ctrl-C, once, which reaches all processes of the terminal's group: no retry begins the shard anew, the run is
    cancelled, and one sentence says what to do."""
    study, home, reached = write_study(tmp_path), tmp_path / "home", tmp_path / "reached"
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSE_IN_SHARD, "run", str(study)],
        env=environment(home) | {"REACHED": str(reached)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # make may have it ignored
    )
    try:
        _until(reached, process)
        _until_written(home, "00000", process)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert told.rstrip().endswith(f"headwater: {STOPPED}")
    assert "Traceback" not in told and _shards(home) == {"00000"}
    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        assert instance.get_runs(limit=1)[0].status == dg.DagsterRunStatus.CANCELED
    assert headwater(home, "run", study).returncode == 0
    assert _shards(home) == {"00000", "00001", "00002"}
