"""A folder of text files: each file is one record, its path in the corpus is the record's id, its folder the source."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from assets.corpus.files import new_digest, opened, split_suffixes
from assets.corpus.reader import Extent, RawRecord, SourceFile, even_extents


@dataclass(frozen=True)
class TextFiles:
    """Reader of text files as records with the fields `text`, `id` and `source`."""

    owner: str

    def probe(self, file: SourceFile) -> None:
        with opened(self.owner, file) as stream:
            stream.read(1)

    def field_names(self, file: SourceFile) -> list[str]:
        return ["text", "id", "source"]

    def measure(self, file: SourceFile, stops: Iterator[int]) -> Iterator[Extent]:
        digest = new_digest()
        with opened(self.owner, file) as stream:
            digest.update(stream.read())
        yield from even_extents(1, stops, digest.hexdigest())

    def read(self, file: SourceFile, start: int = 0, stop: int | None = None, offset: int = 0) -> Iterator[RawRecord]:
        if start > 0 or stop == 0:
            return
        with opened(self.owner, file) as stream:
            raw = stream.read()
        row = RawRecord(0, file.path, file.key, raw=raw)
        try:
            row.record = {"text": raw.decode("utf-8-sig"), "id": file.key, "source": self.source_name(file)}
        except UnicodeDecodeError:
            row.problem = "The file is not valid UTF-8."
        yield row

    def source_name(self, file: SourceFile) -> str:
        return posixpath.basename(posixpath.dirname(file.uri)) or split_suffixes(file.path)[0]
