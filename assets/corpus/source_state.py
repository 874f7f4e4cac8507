"""What a corpus's source files look like from outside: names, sizes and times, without reading any of them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from assets.corpus.sources import open_corpus
from assets.specs.corpus import CorpusSpec
from assets.step.fingerprints import fingerprint


@dataclass(frozen=True)
class SourceState:
    """The files as they lie now. `seconds_since_change` is infinite where the store keeps no times."""

    digest: str
    files: int
    newest: str
    seconds_since_change: float


def source_state(spec: CorpusSpec, base: str | os.PathLike[str]) -> SourceState:
    """Raises BadInput where the path names no file."""
    files = open_corpus(spec, base).files
    newest = max(files, key=lambda file: file.mtime_ns)
    since = time.time() - newest.mtime_ns / 1e9 if newest.mtime_ns else float("inf")
    listed = [(file.key, file.uri, file.bytes, file.mtime_ns) for file in files]
    return SourceState(fingerprint(listed), len(files), newest.path, since)
