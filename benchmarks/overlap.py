"""Scoring with the next shard read and the last one written meanwhile, next to one after the other: python -m
benchmarks.overlap device|cpu [SHARDS] [RECORDS] [REPETITIONS]

Both in turn, in one process: with the pass over the documents on the CPU, which has to share it with what goes on
beside it, or with a device's pass in its place, which is waited for and leaves the CPU alone.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from statistics import median

import numpy as np

import assets.step.overlap
from benchmarks.generated_study import OpenedStudy, opened_for_now
from benchmarks.overhead import DEFAULT_SIZE, seconds_to_score
from compute.influence import InfluencePass, Scores
from orchestration.graph import shard_keys
from orchestration.resources import resources_of
from orchestration.run import run_study

FITTED_RECORDS = 100
DEVICE_SECONDS_PER_DOCUMENT = 1e-3


class OneAfterTheOther:
    """In the place of a pool of threads: what is submitted is done at once."""

    def __init__(self, *_, **__) -> None: ...

    def submit(self, call: Callable, *arguments) -> Future:
        done: Future = Future()
        try:
            done.set_result(call(*arguments))
        except Exception as error:
            done.set_exception(error)
        return done

    def shutdown(self) -> None: ...


@contextmanager
def replaced(owner, name: str, other) -> Iterator[None]:
    """`other` in the place of an attribute of `owner`."""
    usual = getattr(owner, name)
    setattr(owner, name, other)
    try:
        yield
    finally:
        setattr(owner, name, usual)


def a_devices_score(influence_pass: InfluencePass, documents, *, on_batch=None) -> Scores:
    """Scores by chance, after the time that a device would take, in batches of a tenth."""
    for _ in range(10):
        time.sleep(len(documents) * DEVICE_SECONDS_PER_DOCUMENT / 10)
        on_batch(len(documents) // 10, 0)
    draw = np.random.default_rng(0)
    scores_QD = draw.standard_normal((influence_pass.queries, len(documents)), np.float32)
    return Scores(scores_QD, draw.random(len(documents), np.float32), draw.random(len(documents)))


def main(where: str, shards: int = 4, records: int = 400, repetitions: int = 3) -> None:
    score = {"device": a_devices_score, "cpu": InfluencePass.score}[where]
    generated = replace(DEFAULT_SIZE, name="overlap", records=records)
    logging.disable(logging.WARNING)
    with opened_for_now(generated) as opened:
        replace(generated, records=FITTED_RECORDS).write_shard(opened.root, 0)
        with replaced(InfluencePass, "score", a_devices_score):  # what is measured is scored anew
            run_study(opened.study, opened.instance, resources_of(opened.home))  # trained on this shard alone
            for number in range(1, 1 + shards):
                generated.write_shard(opened.root, number)
            run_study(opened.study, opened.instance, resources_of(opened.home))
        added = shard_keys(opened.study, opened.instance)[1:]
        tell(repetitions, lambda: measured(score, opened, added))


def measured(score: Callable, opened: OpenedStudy, shards: list[str]) -> tuple[float, float]:
    """Seconds of a run that scores these shards anew, and of them those from the end of a pass to the next one."""
    passes: list[tuple[float, float]] = []

    def noted(*arguments, **options) -> Scores:
        began = time.monotonic()
        found = score(*arguments, **options)
        passes.append((began, time.monotonic()))
        return found

    with replaced(InfluencePass, "score", noted):
        _, whole = seconds_to_score(opened, shards)
    return whole, sum(began - ended for (_, ended), (began, _) in pairwise(passes))


def tell(repetitions: int, run: Callable[[], tuple[float, float]]) -> None:
    """Prints the median seconds of both ways, and the median of the ratio within a repetition."""
    serial, overlapped = [], []
    for _ in range(repetitions):
        with replaced(assets.step.overlap, "ThreadPoolExecutor", OneAfterTheOther):
            serial.append(run())
        overlapped.append(run())
    for way, seconds in (("serial", serial), ("overlapped", overlapped)):
        whole, between = (round(median(each), 2) for each in zip(*seconds, strict=True))
        print(json.dumps({"way": way, "run_seconds": whole, "between_passes": between}), flush=True)
    ratio = median(after / before for (before, _), (after, _) in zip(serial, overlapped, strict=True))
    print(json.dumps({"overlapped to serial": round(ratio, 3)}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
