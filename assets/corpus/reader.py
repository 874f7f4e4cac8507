"""What every reader of a source format offers, and the rows and extents that it hands out.

A reader streams: it holds one line, one Parquet batch or one text file at a time, never a whole source. It yields
what it cannot read as a `RawRecord` with a problem; only what spoils a whole file is raised, as `BadInput`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a corpus (or one saved data set directory, or one split of a hub data set)."""

    path: str  # for people: relative to the study file's directory where it lies inside
    key: str  # as stored: relative to the corpus's own directory, whichever study reads it and wherever it lies
    uri: str  # where it is opened
    bytes: int
    mtime_ns: int  # 0: not known


@dataclass(slots=True)
class RawRecord:
    """One row as read: a record, or the problem that kept it from being one."""

    position: int  # line or row in the file, counted from 0
    location: str  # for people: "corpus/a.jsonl:17" or "corpus/a.parquet row 17"
    name: str  # the record's id when the corpus maps none
    record: dict[str, Any] | None = None
    problem: str | None = None
    raw: bytes = b""  # the line as it stands in the file, where there is one


@dataclass(frozen=True, slots=True)
class Extent:
    """Rows `start` to `stop` of a file: how many records they hold, where they begin, and a digest of them."""

    start: int
    stop: int
    records: int
    offset: int  # byte of the (decompressed) file where they begin; 0 where the format finds rows by number
    digest: str


class Reader(Protocol):
    """One source format. `stops` are row numbers, rising, at which extents end; the last extent ends with the file."""

    def probe(self, file: SourceFile) -> None:
        """Raise `BadInput` if a cheap look shows that the file cannot be read."""

    def field_names(self, file: SourceFile) -> list[str] | None:
        """The fields that the file's schema declares; None where only its records can tell."""

    def measure(self, file: SourceFile, stops: Iterator[int]) -> Iterator[Extent]:
        """Read the file once, from the start, and tell what lies between the stops."""

    def read(self, file: SourceFile, start: int = 0, stop: int | None = None, offset: int = 0) -> Iterator[RawRecord]:
        """Rows `start` to `stop`; `offset` is the byte at which `start` begins, as `measure` told it."""

    def source_name(self, file: SourceFile) -> str:
        """What to call the source of records that do not name their own."""


def even_extents(total: int, stops: Iterator[int], digest: str) -> Iterator[Extent]:
    """Extents of a file whose rows are counted without reading them, all with the digest of the whole file."""
    start = 0
    for stop in [*takewhile(lambda stop: stop < total, stops), total]:
        if stop > start:
            yield Extent(start=start, stop=stop, records=stop - start, offset=0, digest=digest)
        start = stop
