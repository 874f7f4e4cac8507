"""Shards: fixed slices of the source files, planned so that what is known keeps its place for ever.

A shard is the unit of work, retry and scale. A slice is a range of rows of one file; a big file is cut into several
shards, small files share one. Planning again over changed files follows four rules:

- a slice that is known keeps its shard, start and stop; its digest follows the content of its rows;
- new files, and rows appended to known files, make new shards with the next numbers;
- a slice whose file or rows are gone is marked removed, and comes back to life should they return;
- a file whose size and time of change are as known is not read again.

A shard's fingerprint depends on the content of its slices alone, not on times: equal fingerprint, nothing to redo.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any, Literal

from assets.corpus.reader import Extent, Reader, SourceFile
from assets.corpus.sources import open_corpus
from assets.specs.corpus import CorpusSpec
from compute.errors import BadInput


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows `start` to `stop` of one source file."""

    file: str  # a source file's key
    start: int
    stop: int
    offset: int  # byte of the (decompressed) file at which `start` begins, for formats that have no row index
    records: int  # rows that are there: fewer than stop - start where lines are blank or the file has shrunk
    bytes: int  # size of the whole file
    mtime_ns: int
    digest: str  # of these rows (JSON Lines, text) or of the whole file (Parquet, datasets); a hub data set's commit
    state: Literal["present", "removed"] = "present"

    @property
    def present(self) -> bool:
        return self.state == "present"


@dataclass(frozen=True)
class Shard:
    """A fixed set of slices under one partition key."""

    key: str
    slices: tuple[Slice, ...]

    @property
    def present_slices(self) -> tuple[Slice, ...]:
        """The slices whose rows are there, in the order in which they are read."""
        return tuple(piece for piece in self.slices if piece.present)

    @property
    def state(self) -> Literal["present", "removed"]:
        return "present" if self.present_slices else "removed"

    @property
    def records(self) -> int:
        return sum(piece.records for piece in self.present_slices)

    @property
    def fingerprint(self) -> str:
        """A hash of which rows of which files the shard holds, and of their content.

        A hub data set's digest is its commit: that fewer of its rows are taken shows in the number of records alone.
        """
        parts = [f"{p.file}\0{p.start}\0{p.stop}\0{p.records}\0{p.digest}\n" for p in self.present_slices]
        return hashlib.blake2b("".join(parts).encode(), digest_size=16).hexdigest()


def shard_rows(shards: Iterable[Shard]) -> list[dict[str, Any]]:
    """One row per slice of a source file in a shard."""
    return [{"shard": shard.key, **asdict(piece)} for shard in shards for piece in shard.slices]


def shards_from_rows(rows: Iterable[dict[str, Any]]) -> list[Shard]:
    """The shards that `shard_rows` wrote, whatever the order of the rows."""
    slices: dict[str, list[Slice]] = defaultdict(list)
    for row in rows:
        slices[row["shard"]].append(Slice(**{name: row[name] for name in Slice.__dataclass_fields__}))
    return [_shard(key, slices[key]) for key in sorted(slices, key=int)]


def plan_shards(
    spec: CorpusSpec,
    base: str | os.PathLike[str],
    known: Sequence[Shard] = (),
    *,
    on_file: Callable[[SourceFile, int, int], None] | None = None,
) -> list[Shard]:
    """The known shards, brought up to date, and after them new ones for what is new.

    `on_file(file, number, total)` is called after each file, for progress: the first plan reads the whole corpus.
    """
    source = open_corpus(spec, base)
    before = _by_file(known)
    now: dict[tuple[str, int], Slice] = {}
    for number, file in enumerate(source.files, 1):
        pieces = _plan_file(source.reader, file, before.get(file.key, []), spec.shard_records)
        now.update({(piece.file, piece.start): piece for piece in pieces})
        if on_file is not None:
            on_file(file, number, len(source.files))
    if not any(piece.records for piece in now.values()):
        raise BadInput(f"{spec.owner}: {_listed(source.files)} hold no records; add records, or correct path")
    kept = [_brought_up_to_date(shard, now) for shard in known]
    placed = {(piece.file, piece.start) for shard in known for piece in shard.slices}
    fresh = [piece for place, piece in now.items() if place not in placed]
    return kept + _grouped(fresh, spec.shard_records, first=1 + max((int(shard.key) for shard in known), default=-1))


def _by_file(shards: Iterable[Shard]) -> dict[str, list[Slice]]:
    slices: dict[str, list[Slice]] = defaultdict(list)
    for shard in shards:
        for piece in shard.slices:
            slices[piece.file].append(piece)
    return {file: sorted(pieces, key=lambda piece: piece.start) for file, pieces in slices.items()}


def _plan_file(reader: Reader, file: SourceFile, before: list[Slice], shard_records: int) -> list[Slice]:
    """The slices of one file that hold rows now."""
    if _unchanged(file, before):
        return [piece for piece in before if piece.present]
    stops = {piece.start: piece.stop for piece in before}
    extents = list(reader.measure(file, _stops(before, shard_records)))
    while extents and not extents[-1].records and extents[-1].start not in stops:
        extents.pop()  # nothing but blank lines at the end
    return [_slice(file, extent, stops.get(extent.start, extent.stop)) for extent in extents]


def _unchanged(file: SourceFile, before: list[Slice]) -> bool:
    """Size and time are as known. Without a time (a hub data set, some stores), only measuring can tell."""
    return file.mtime_ns > 0 and any(
        (piece.present and piece.bytes == file.bytes and piece.mtime_ns == file.mtime_ns) for piece in before
    )


def _stops(before: list[Slice], shard_records: int) -> Iterator[int]:
    """Where slices end: first as they are known, then every `shard_records` rows."""
    yield from (piece.stop for piece in before)
    yield from count(shard_records + max((piece.stop for piece in before), default=0), shard_records)


def _slice(file: SourceFile, extent: Extent, stop: int) -> Slice:
    return Slice(
        file=file.key,
        start=extent.start,
        stop=stop,
        offset=extent.offset,
        records=extent.records,
        bytes=file.bytes,
        mtime_ns=file.mtime_ns,
        digest=extent.digest,
    )


def _brought_up_to_date(shard: Shard, now: dict[tuple[str, int], Slice]) -> Shard:
    removed = (replace(piece, state="removed", records=0) for piece in shard.slices)
    return _shard(shard.key, [now.get((piece.file, piece.start), piece) for piece in removed])


def _grouped(pieces: Iterable[Slice], shard_records: int, *, first: int) -> list[Shard]:
    """Fill shards with slices in order of file and row; a slice that no longer fits opens the next shard."""
    groups: list[list[Slice]] = []
    for piece in sorted(pieces, key=lambda piece: (piece.file, piece.start)):
        if not groups or sum(other.records for other in groups[-1]) + piece.records > shard_records:
            groups.append([])
        groups[-1].append(piece)
    return [_shard(f"{number:05d}", group) for number, group in enumerate(groups, first)]


def _shard(key: str, slices: Iterable[Slice]) -> Shard:
    return Shard(key=key, slices=tuple(sorted(slices, key=lambda piece: (piece.file, piece.start))))


def _listed(files: Sequence[SourceFile]) -> str:
    names = ", ".join(file.path for file in files[:3])
    return names if len(files) <= 3 else f"{names} and {len(files) - 3} more files"
