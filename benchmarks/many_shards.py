"""What one more shard costs in a corpus of N shards, by stage: python -m benchmarks.many_shards [N …]

A study of tiny shards is run up to N of them; then files are added one at a time, and for each the runs are timed that
the sensors would start: the listing, the shard's own run (records, documents, influence), and coverage with rankings.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from assets.step.step import REUSE_TAG
from benchmarks.generated_study import GeneratedStudy
from orchestration.automation import corpus_keys
from orchestration.graph import job_name, shard_keys, shards_key, study_assets_once, study_job
from orchestration.home import Home
from orchestration.resources import resources_of
from orchestration.run import QUIET, run_study
from orchestration.studies import open_study

TINY = GeneratedStudy("many", records=8, words=20, max_tokens=32, hidden_size=32, layers=2, rank=4)
ADDED = 5


def main(sizes: list[int]) -> None:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        os.environ["HEADWATER_HOME"] = str(root / "home")
        home = Home.from_environment().prepare()
        study = open_study(TINY.write(root), home)
        with home.instance() as instance:
            written = 0
            for size in sizes:
                while written < size:
                    written = TINY.write_shard(root, written)
                started = time.monotonic()
                run_study(study, instance, resources_of(home))
                _say({"shards": size, "all of them": round(time.monotonic() - started, 1)})
                added = []
                for _ in range(ADDED):
                    written = TINY.write_shard(root, written)
                    added.append(dict(_add_one(study, instance, home)))
                _say({"shards": size} | {name: _median(added, name) for name in added[0]})


def _add_one(study, instance: dg.DagsterInstance, home: Home) -> Iterator[tuple[str, float]]:
    """Seconds of each run that follows a new file."""
    scores = [dg.AssetKey(["study", study.name, name]) for name in ("influence", "document_norms", "candidates")]
    over_all = [dg.AssetKey(["study", study.name, name]) for name in ("coverage", "rankings")]
    yield "listing", _timed(study, instance, home, [shards_key(study)])
    newest = sorted(shard_keys(study, instance))[-1]
    yield "records and documents", _timed(study, instance, home, corpus_keys(study), newest)
    yield "influence", _timed(study, instance, home, scores, newest)
    yield "coverage and rankings", _timed(study, instance, home, over_all)


def _timed(study, instance, home: Home, keys: list[dg.AssetKey], shard: str | None = None) -> float:
    definitions = dg.Definitions(study_assets_once([study]), jobs=[study_job(study)], resources=resources_of(home))
    job = definitions.resolve_job_def(job_name(study))
    tags = {REUSE_TAG: "true"}
    started = time.monotonic()
    result = job.execute_in_process(
        instance=instance, asset_selection=keys, tags=tags, partition_key=shard, run_config=QUIET
    )
    assert result.success
    return time.monotonic() - started


def _median(added: list[dict[str, float]], name: str) -> float:
    return round(statistics.median(each[name] for each in added), 2)


def _say(facts: dict) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [10, 1000])
