"""Which sorted runs are written next, so that a shard's scores are written a logarithmic number of times.

Runs are merged as the digits of a counter carry over: a new run takes up the smaller ones while its rows are at least
those of the next larger. So of runs in equal steps there are about log2(rows) at a time, and none grows beyond a limit,
which bounds what a change or a merge can cost. Names and counts alone: nothing here reads a score.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from assets.study.clustered_runs import Run


@dataclass
class Merge:
    """One run to be written: `runs` -> the shards that are taken of each, and `shards`, which are read from influence.

    `rows`: how many it will hold.
    """

    runs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shards: tuple[str, ...] = ()
    rows: int = 0

    @property
    def all_shards(self) -> tuple[str, ...]:
        return (*self.shards, *(shard for taken in self.runs.values() for shard in taken))

    def add(self, other: Merge) -> None:
        self.runs |= other.runs
        self.shards += other.shards
        self.rows += other.rows


def planned(live: Iterable[Run], fingerprints: Mapping[str, str], rows: Mapping[str, int], most: int) -> list[Merge]:
    """The runs to be written until the live ones hold every shard at its fingerprint, and nothing else.

    `rows` of each shard; `most` rows in a run, unless a single shard has more. A run with a shard that is gone or has
    changed is dead: what else it holds is written anew.
    """
    live = list(live)
    clean = sorted((run for run in live if _kept(run, fingerprints) == [*run.shards]), key=lambda run: run.rows)
    merges = list(_packed(_due(live, fingerprints, rows), most))
    for merge in merges:
        while clean and clean[0].rows <= merge.rows and clean[0].rows + merge.rows <= most:
            run = clean.pop(0)
            merge.add(Merge({run.name: tuple(run.shards)}, (), run.rows))
    return merges


def _due(live: Iterable[Run], fingerprints: Mapping[str, str], rows: Mapping[str, int]) -> Iterator[Merge]:
    """What is in no clean run: of dead ones the shards that are as they were, then the new and changed shards."""
    held: set[str] = set()
    for run in live:
        kept = _kept(run, fingerprints)
        held.update(kept)
        if kept and kept != [*run.shards]:
            yield Merge({run.name: tuple(kept)}, (), sum(rows[shard] for shard in kept))
    for shard in sorted(fingerprints.keys() - held):
        yield Merge({}, (shard,), rows[shard])


def _packed(due: Iterable[Merge], most: int) -> Iterator[Merge]:
    packed = Merge()
    for each in due:
        if packed.rows and packed.rows + each.rows > most:
            yield packed
            packed = Merge()
        packed.add(each)
    if packed.rows:
        yield packed


def _kept(run: Run, fingerprints: Mapping[str, str]) -> list[str]:
    return [shard for shard, stamp in run.shards.items() if fingerprints.get(shard) == stamp]
