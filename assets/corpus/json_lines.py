"""JSON Lines: one JSON object per line, plain, gzip or zstd.

Rows are lines, blank ones included, so that the n-th row is line n + 1 of the file. A digest is taken of each extent
alone, so that appending to a file leaves its earlier extents, and the shards made of them, as they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from assets.corpus.files import new_digest, opened, split_suffixes
from assets.corpus.reader import Extent, RawRecord, SourceFile
from compute.errors import BadInput

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class JsonLines:
    """Reader of JSON Lines files."""

    owner: str

    def probe(self, file: SourceFile) -> None:
        with opened(self.owner, file) as lines:
            first = next((line for line in lines if not line.isspace()), b"")
        if first.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"["):
            raise BadInput(
                f"{self.owner}: {file.path} begins with a JSON array; write one JSON object per line (JSON Lines)"
            )

    def field_names(self, file: SourceFile) -> None:
        return None

    def measure(self, file: SourceFile, stops: Iterator[int]) -> Iterator[Extent]:
        position = offset = 0
        with opened(self.owner, file) as lines:
            for stop in stops:
                start, begin, records, digest = position, offset, 0, new_digest()
                for line in islice(lines, stop - start):
                    position, offset, records = position + 1, offset + len(line), records + (not line.isspace())
                    # A last line may get its line end only when another is appended: line ends do not count.
                    digest.update(line.rstrip(b"\r\n") + b"\n")
                if position == start:
                    return
                yield Extent(start=start, stop=position, records=records, offset=begin, digest=digest.hexdigest())

    def read(self, file: SourceFile, start: int = 0, stop: int | None = None, offset: int = 0) -> Iterator[RawRecord]:
        with opened(self.owner, file, offset=offset) as lines:
            skipped = 0 if offset else start
            count = None if stop is None else stop - start + skipped
            for position, line in enumerate(islice(lines, skipped, count), start):
                if not line.isspace():
                    yield _row(file, position, line)

    def source_name(self, file: SourceFile) -> str:
        return split_suffixes(file.path)[0]


def _row(file: SourceFile, position: int, line: bytes) -> RawRecord:
    location, name = f"{file.path}:{position + 1}", f"{file.key}:{position + 1}"
    record, problem = _parsed(line.removeprefix(BYTE_ORDER_MARK) if position == 0 else line)
    return RawRecord(position, location, name, record, problem, line)


def _parsed(line: bytes) -> tuple[dict[str, Any] | None, str | None]:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        return None, "The line is not valid UTF-8."
    except (ValueError, RecursionError):
        return None, "The line is not valid JSON."
    if not isinstance(record, dict):
        return None, "The line is JSON but not an object."
    if b"\\u" in line and not _encodable(record):
        return None, "The line escapes half of a surrogate pair, which is no Unicode character."
    return record, None


def _encodable(record: dict[str, Any]) -> bool:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
