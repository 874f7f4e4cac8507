"""What the platform adds to the computation of a shard of default size: python -m benchmarks.overhead [SHARDS] [WIDTH]

Shards of 5,000 records are scored by a step of its own, as the Dagster UI would start it. Everything in the run that is
not the pass over the documents (opening the model, reading, writing, checks, events, MLflow, figures) is overhead.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import dagster as dg

from benchmarks.generated_study import GeneratedStudy, OpenedStudy, opened_for_now
from compute.influence import InfluencePass
from orchestration.graph import job_name, shard_keys, study_assets_once, study_job
from orchestration.resources import resources_of
from orchestration.run import QUIET, run_study

DEFAULT_SIZE = GeneratedStudy("overhead", records=5_000, words=250, max_tokens=256, hidden_size=128, layers=4, rank=32)
SCORES = ("influence", "document_norms", "candidates")


def main(shards: int = 4, width: int = DEFAULT_SIZE.hidden_size) -> None:
    generated = replace(DEFAULT_SIZE, hidden_size=width)
    logging.disable(logging.WARNING)
    with opened_for_now(generated) as opened:
        for number in range(shards):
            generated.write_shard(opened.root, number)
        run_study(opened.study, opened.instance, resources_of(opened.home))
        keys = shard_keys(opened.study, opened.instance)
        for some in (keys[:1], keys):
            computed, whole = seconds_to_score(opened, some)
            told = {"shards": len(some), "width": width, "compute_seconds": round(computed, 2)}
            told |= {"run_seconds": round(whole, 2), "added": round(whole / computed - 1, 4)}
            print(json.dumps(told), flush=True)


def seconds_to_score(opened: OpenedStudy, shards: list[str]) -> tuple[float, float]:
    """Of scoring these shards anew: in the passes over documents, and in the run as a whole."""
    study, home, instance = opened.study, opened.home, opened.instance
    definitions = dg.Definitions(study_assets_once([study]), jobs=[study_job(study)], resources=resources_of(home))
    job = definitions.resolve_job_def(job_name(study))
    keys = [dg.AssetKey(["study", study.name, name]) for name in SCORES]
    bounds = {"dagster/asset_partition_range_start": shards[0], "dagster/asset_partition_range_end": shards[-1]}
    passes: list[float] = []
    with _timed_passes(passes):
        started = time.monotonic()
        result = job.execute_in_process(instance=instance, asset_selection=keys, tags=bounds, run_config=QUIET)
        whole = time.monotonic() - started
    assert result.success
    assert len(passes) == len(shards)
    return sum(passes), whole


@contextmanager
def _timed_passes(passes: list[float]) -> Iterator[None]:
    """Appends the seconds of every pass over a shard's documents."""
    untimed = InfluencePass.score

    def score(influence_pass: InfluencePass, *arguments, **named):
        started = time.monotonic()
        result = untimed(influence_pass, *arguments, **named)
        passes.append(time.monotonic() - started)
        return result

    InfluencePass.score = score
    try:
        yield
    finally:
        InfluencePass.score = untimed


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
