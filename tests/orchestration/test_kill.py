"""A run that is killed in the middle of a shard: the tables stay as they were, and the next run completes them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import polars as pl
from deltalake import DeltaTable

from tests.orchestration.tiny_study import environment, headwater, write_study

PAUSE_IN_SHARD = """
import os, sys, time
import assets.study.influence as stage

score = stage._score_shard

def paused(step, study, influence_pass, keys, shard, stamp, progress):
    if shard == "00001":
        advance = progress.advance
        def stop_here(count):
            open(os.environ["REACHED"], "w").close()
            time.sleep(600)
        progress.advance = stop_here
    return score(step, study, influence_pass, keys, shard, stamp, progress)

stage._score_shard = paused
from orchestration.cli import main
main()
"""


def _until(path, process, seconds=200):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "the run ended before it reached the shard"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _shards(home) -> set[str]:
    return set(pl.scan_delta(str(home / "lake/study/tiny/influence")).collect()["shard"])


def test_a_killed_run_leaves_whole_shards_and_is_completed_by_the_next(finished, tmp_path):
    study, home, reached = write_study(tmp_path), tmp_path / "home", tmp_path / "reached"
    process = subprocess.Popen(
        [sys.executable, "-c", PAUSE_IN_SHARD, "run", str(study)],
        env=environment(home) | {"REACHED": str(reached)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        _until(reached, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert _shards(home) == {"00000"}
    version = DeltaTable(str(home / "lake/study/tiny/influence")).version()

    result = headwater(home, "run", study)
    assert result.returncode == 0, result.stderr
    assert DeltaTable(str(home / "lake/study/tiny/influence")).version() == version + 2  # the two missing shards alone
    rows = pl.scan_delta(str(home / "lake/study/tiny/influence")).collect()
    keys = ["shard", "method", "query_id", "document_id"]
    whole = finished.table("study/tiny/influence").sort(keys)
    assert rows.sort(keys).equals(whole)  # to the last digit, with the same fingerprints
