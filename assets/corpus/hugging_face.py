"""Hugging Face `datasets`: a directory written by save_to_disk, or a hub data set, streamed at a fixed commit."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from assets.corpus.files import content_digest, filesystem, new_digest, readable
from assets.corpus.reader import Extent, RawRecord, SourceFile, even_extents
from compute.errors import BadInput

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from assets.specs.corpus import CorpusSpec


@dataclass(frozen=True)
class SavedDataset:
    """Reader of directories by `Dataset.save_to_disk` or of one split of a `DatasetDict`; each is one source file."""

    owner: str
    fields: frozenset[str] | None = None

    def probe(self, file: SourceFile) -> None:
        self._loaded(file)

    def field_names(self, file: SourceFile) -> list[str]:
        return self._loaded(file).column_names

    def measure(self, file: SourceFile, stops: Iterator[int]) -> Iterator[Extent]:
        digest = new_digest()
        fs, root = filesystem(file.uri)
        for name in sorted(fs.find(root)):
            part = replace(file, uri=fs.unstrip_protocol(name))
            digest.update(content_digest(self.owner, part).encode())
        yield from even_extents(len(self._loaded(file)), stops, digest.hexdigest())

    def read(self, file: SourceFile, start: int = 0, stop: int | None = None, offset: int = 0) -> Iterator[RawRecord]:
        rows = self._loaded(file)
        rows = rows.select_columns(_wanted(rows.column_names, self.fields))
        last = len(rows) if stop is None else min(stop, len(rows))
        yield from _rows(file, start, (rows[row] for row in range(start, last)))

    def source_name(self, file: SourceFile) -> str:
        fs, root = filesystem(file.uri)
        parent = posixpath.dirname(root.rstrip("/"))
        return posixpath.basename(parent if fs.exists(f"{parent}/dataset_dict.json") else root.rstrip("/"))

    def _loaded(self, file: SourceFile) -> Dataset:
        import datasets

        with readable(self.owner, file.path):
            try:
                return datasets.load_from_disk(file.uri)
            except PermissionError:
                raise
            except Exception as error:  # Arrow, JSON and datasets each raise their own for a damaged directory
                raise BadInput(
                    f"{self.owner}: {file.path} is no readable directory by save_to_disk (truncated or damaged: "
                    f"{_first_line(error)}); save it again"
                ) from error


def saved_split(owner: str, path: str, uri: str, split: str) -> str:
    """The directory that holds the rows: that of the split in a saved DatasetDict, otherwise the one given.

    The split is thereby part of the source file's name, so that rows of different splits are never taken for the same.
    """
    fs, root = filesystem(uri)
    if not fs.exists(f"{root}/dataset_dict.json"):
        return uri.rstrip("/")
    splits = sorted(posixpath.basename(name.rstrip("/")) for name in fs.ls(root, detail=False) if fs.isdir(name))
    if split not in splits:
        raise BadInput(f"{owner}: {path} has no split '{split}' but: {', '.join(splits)}; correct split")
    return f"{uri.rstrip('/')}/{split}"


@dataclass(frozen=True)
class HubDataset:
    """Reader of one split of a hub data set. A source file's URI is the commit: all shards read the same one."""

    owner: str
    hub: str
    config: str | None
    split: str
    revision: str | None
    max_records: int
    fields: frozenset[str]

    @classmethod
    def of(cls, spec: CorpusSpec) -> HubDataset:
        return cls(
            owner=spec.owner,
            hub=spec.hub,
            config=spec.config,
            split=spec.split,
            revision=spec.revision,
            max_records=spec.max_records,
            fields=frozenset(spec.fields.named.values()),
        )

    @cached_property
    def path(self) -> str:
        return "/".join(part for part in (self.hub, self.config, self.split) if part)

    def pinned(self) -> SourceFile:
        """The split at the commit that the revision names now."""
        return self.at(self.revision if _is_commit(self.revision) else self._newest_commit())

    def at(self, commit: str) -> SourceFile:
        return SourceFile(path=self.path, key=self.path, uri=commit, bytes=0, mtime_ns=0)

    def probe(self, file: SourceFile) -> None:
        try:
            next(iter(self._stream(file)), None)
        except Exception as error:  # networks, formats and access rights each fail in their own way
            raise self._unreachable(error) from error

    def field_names(self, file: SourceFile) -> list[str] | None:
        return self._stream(file).column_names

    def measure(self, file: SourceFile, stops: Iterator[int]) -> Iterator[Extent]:
        splits = self._stream(file).info.splits or {}
        known = splits[self.split].num_examples if self.split in splits else 0
        yield from even_extents(min(known or self.max_records, self.max_records), stops, file.uri)

    def read(self, file: SourceFile, start: int = 0, stop: int | None = None, offset: int = 0) -> Iterator[RawRecord]:
        stop = self.max_records if stop is None else min(stop, self.max_records)
        stream = self._stream(file)
        if stream.column_names:
            stream = stream.select_columns(_wanted(stream.column_names, self.fields))
        yield from _rows(file, start, stream.skip(start).take(max(stop - start, 0)))

    def source_name(self, file: SourceFile) -> str:
        return self.hub

    def _newest_commit(self) -> str:
        from huggingface_hub import HfApi

        try:
            return HfApi().dataset_info(self.hub, revision=self.revision).sha
        except Exception as error:
            raise self._unreachable(error) from error

    def _stream(self, file: SourceFile) -> IterableDataset:
        import datasets  # errors pass as they are: after the preflight they are the network's, and a step may try again

        return datasets.load_dataset(self.hub, self.config, split=self.split, revision=file.uri, streaming=True)

    def _unreachable(self, error: Exception) -> BadInput:
        revision = f" at revision '{self.revision}'" if self.revision else ""
        return BadInput(
            f"{self.owner}: Hugging Face data set '{self.hub}'{revision} cannot be opened ({_first_line(error)}); "
            "correct hub, config, split or revision, or see that the hub is reachable"
        )


def _is_commit(revision: str | None) -> bool:
    return bool(revision and re.fullmatch(r"[0-9a-f]{40}", revision))


def _wanted(columns: list[str], fields: frozenset[str] | None) -> list[str]:
    """The columns that hold the mapped fields: others (images, audio) are not even decoded."""
    tops = {field.split(".")[0] for field in fields or ()} | set(fields or ())
    return [column for column in columns if column in tops] or columns  # a data set without columns has no rows


def _rows(file: SourceFile, start: int, records: Iterator[dict[str, Any]]) -> Iterator[RawRecord]:
    for row, record in enumerate(records, start):
        yield RawRecord(row, f"{file.path} row {row + 1}", f"{file.key}:{row + 1}", record)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
