"""What one more shard costs in a corpus of N shards, by stage: python -m benchmarks.many_shards [N …]

One study of tiny shards for each N, in directories below HEADWATER_BENCHMARKS where that is set (they are used again),
otherwise in temporary ones. Then files are added one at a time, to each corpus in turn, and for each the runs are timed
that the sensors would start: the listing, the shard's own run (records, documents, influence), and coverage with
rankings. Seconds are of the clock, and of this process's own work, which a busy machine disturbs less.
"""

from __future__ import annotations

import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from assets.specs.study import Study
from assets.step.step import REUSE_TAG
from benchmarks.generated_study import GeneratedStudy, opened
from orchestration.automation import corpus_keys
from orchestration.graph import job_name, shard_keys, shards_key, study_assets_once, study_job
from orchestration.home import Home
from orchestration.resources import resources_of
from orchestration.run import QUIET, run_study

TINY = GeneratedStudy("many", records=8, words=20, max_tokens=32, hidden_size=32, layers=2, rank=4)
ADDED = 7
SCORES = ("influence", "document_norms", "candidates")
OVER_ALL = ("coverage", "rankings")


def main(sizes: list[int]) -> None:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        root = Path(os.environ.get("HEADWATER_BENCHMARKS") or temporary)
        corpora = [Corpus.of(size, root / str(size), stack) for size in sizes]
        seconds: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
        for turn in range(ADDED + 1):
            for corpus in corpora:
                for stage, clock, own in corpus.add_one():
                    if turn:  # the first turn imports what the others have
                        seconds[corpus.size, stage].append((clock, own))
        for (size, stage), measured in seconds.items():
            clock, own = (round(statistics.median(each), 2) for each in zip(*measured, strict=True))
            print(json.dumps({"shards": size, "stage": stage, "seconds": clock, "own work": own}), flush=True)


@dataclass
class Corpus:
    """A study of `size` shards and more, and the home it was run in."""

    size: int
    root: Path
    home: Home
    study: Study
    instance: dg.DagsterInstance

    @classmethod
    def of(cls, size: int, root: Path, stack: ExitStack) -> Corpus:
        found = stack.enter_context(opened(TINY, root))
        made = cls(size, root, found.home, found.study, found.instance)
        while made.files() < size:
            TINY.write_shard(root, made.files())
        run_study(made.study, made.instance, resources_of(made.home))
        return made

    def files(self) -> int:
        return len(list((self.root / "corpus").glob("*.jsonl")))

    def add_one(self) -> list[tuple[str, float, float]]:
        """Stage, seconds, and seconds of own work, of each run that follows a new file."""
        TINY.write_shard(self.root, self.files())
        scores = [
            dg.AssetKey(["study", self.study.name, name]) for name in ("influence", "document_norms", "candidates")
        ]
        over_all = [dg.AssetKey(["study", self.study.name, name]) for name in ("coverage", "rankings")]
        listing = self._timed("listing", [shards_key(self.study)])
        newest = sorted(shard_keys(self.study, self.instance))[-1]
        return [
            listing,
            self._timed("records and documents", corpus_keys(self.study), newest),
            self._timed("influence", scores, newest),
            self._timed("coverage and rankings", over_all),
        ]

    def _timed(self, stage: str, keys: list[dg.AssetKey], shard: str | None = None) -> tuple[str, float, float]:
        resources = resources_of(self.home)
        definitions = dg.Definitions(study_assets_once([self.study]), jobs=[study_job(self.study)], resources=resources)
        job = definitions.resolve_job_def(job_name(self.study))
        started, own = time.monotonic(), time.process_time()
        result = job.execute_in_process(
            instance=self.instance,
            asset_selection=keys,
            tags={REUSE_TAG: "true"},
            partition_key=shard,
            run_config=QUIET,
        )
        assert result.success
        return stage, time.monotonic() - started, time.process_time() - own


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [10, 1000])
