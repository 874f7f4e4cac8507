"""Which files a corpus is made of and which reader reads them: the one place where formats are told apart."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from assets.corpus.files import (
    common_directory,
    filesystem,
    fixed_directory,
    matching,
    resolved,
    source_file,
    split_suffixes,
)
from assets.corpus.hugging_face import HubDataset, SavedDataset, saved_split
from assets.corpus.json_lines import JsonLines
from assets.corpus.parquet import Parquet
from assets.corpus.reader import RawRecord, Reader, SourceFile
from assets.corpus.text_files import TextFiles
from assets.specs.corpus import CorpusSpec, Format
from compute.errors import BadInput

if TYPE_CHECKING:
    from assets.corpus.shards import Slice

FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "text",
    ".text": "text",
    ".md": "text",
}


@dataclass(frozen=True)
class Source:
    """The files of a corpus or query set, sorted by name, and the reader of their format."""

    owner: str
    files: tuple[SourceFile, ...]
    reader: Reader


def open_corpus(spec: CorpusSpec, base: str | os.PathLike[str]) -> Source:
    """What the corpus is made of now. Nothing is read yet, but a hub data set is pinned to its commit."""
    if spec.hub is not None:
        reader = HubDataset.of(spec)
        return Source(owner=spec.owner, files=(reader.pinned(),), reader=reader)
    fields = frozenset(spec.fields.named.values())
    return open_files(spec.owner, spec.path, base, format=spec.format, split=spec.split, fields=fields)


def open_files(
    owner: str,
    paths: Collection[str],
    base: str | os.PathLike[str],
    *,
    format: Format | None = None,
    split: str = "train",
    fields: frozenset[str] | None = None,
    allowed: Collection[Format] = FORMATS,
) -> Source:
    """The files that `paths` name, each once. `fields` limits what is decoded; None means all fields."""
    chosen = {uri: kind for path in paths for uri, kind in _chosen(owner, path, base, format, split)}
    formats = sorted(set(chosen.values()))
    if len(formats) > 1:
        odd = {kind: next(uri for uri in chosen if chosen[uri] == kind) for kind in formats}
        examples = ", ".join(f"{kind} ({os.path.basename(uri)})" for kind, uri in odd.items())
        raise BadInput(f"{owner}: path names files of several formats: {examples}; set format, or a narrower glob")
    if formats[0] not in allowed:
        example = next(iter(chosen))
        raise BadInput(f"{owner}: format {formats[0]} ({example}) is not read here; use {' or '.join(allowed)}")
    directory = corpus_directory(paths, base, format)
    files = sorted((source_file(owner, uri, base, directory) for uri in chosen), key=lambda file: file.key)
    return Source(owner=owner, files=tuple(files), reader=reader_of(owner, formats[0], fields=fields))


def reader_of(owner: str, format: Format, *, fields: frozenset[str] | None = None) -> Reader:
    """The reader of a format."""
    if format == "jsonl":
        return JsonLines(owner)
    if format == "parquet":
        return Parquet(owner, fields)
    return TextFiles(owner) if format == "text" else SavedDataset(owner, fields)


def corpus_directory(paths: Collection[str], base: str | os.PathLike[str], format: Format | None) -> str:
    """The directory that stored file names start from: the deepest that holds all that `paths` can name.

    It follows from the resolved paths alone. Studies in different directories that share a corpus thus agree on the
    names of its files, and a corpus that moves together with its study keeps them.
    """

    def fixed(path: str) -> str:
        saved = format == "datasets" or (format is None and is_saved_dataset(resolved(path, base)))
        return fixed_directory(path, base, one_source=saved)

    return common_directory([fixed(path) for path in paths])


def read_slices(
    spec: CorpusSpec, base: str | os.PathLike[str], pieces: Collection[Slice]
) -> Iterator[tuple[RawRecord, str]]:
    """The rows of slices as they were planned, each with the name of its source, without listing the corpus again."""
    directory = None if spec.hub is not None else corpus_directory(spec.path, base, spec.format)
    for piece in pieces:
        reader, file = _hub_file(spec, piece) if directory is None else _planned_file(spec, base, directory, piece)
        source = reader.source_name(file)
        for row in reader.read(file, piece.start, piece.stop, piece.offset):
            yield row, source


def _hub_file(spec: CorpusSpec, piece: Slice) -> tuple[Reader, SourceFile]:
    reader = HubDataset.of(spec)
    return reader, reader.at(piece.digest)


def _planned_file(
    spec: CorpusSpec, base: str | os.PathLike[str], directory: str, piece: Slice
) -> tuple[Reader, SourceFile]:
    file = source_file(spec.owner, resolved(piece.file, directory), base, directory)
    if file.bytes != piece.bytes:
        raise BadInput(
            f"{spec.owner}: {file.path} changed after its shards were planned "
            f"(it has {file.bytes} bytes, not {piece.bytes}); run again, so that they are planned anew"
        )
    format = spec.format or format_of(spec.owner, file.uri)
    return reader_of(spec.owner, format, fields=frozenset(spec.fields.named.values())), file


def is_saved_dataset(uri: str) -> bool:
    """Whether a directory was written by `datasets`' save_to_disk."""
    fs, root = filesystem(uri)
    return fs.exists(f"{root}/dataset_dict.json") or (
        fs.exists(f"{root}/dataset_info.json") and fs.exists(f"{root}/state.json")
    )


def format_of(owner: str, uri: str) -> Format:
    """The format that the name of a file tells."""
    suffix = split_suffixes(uri)[1]
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if is_saved_dataset(uri):
        return "datasets"
    raise BadInput(
        f"{owner}: the format of {uri} cannot be told from its suffix '{suffix}'; set format to one of "
        f"{', '.join(FORMATS)}, or use a suffix of {', '.join(SUFFIXES)} (also with .gz or .zst)"
    )


def _chosen(
    owner: str, path: str, base: str | os.PathLike[str], format: Format | None, split: str
) -> Iterator[tuple[str, Format]]:
    """The files that one path names, with their formats."""
    uri = resolved(path, base)
    if format == "datasets" or (format is None and is_saved_dataset(uri)):
        if not is_saved_dataset(uri):
            raise BadInput(
                f"{owner}: path '{path}' is no directory written by datasets' save_to_disk ({uri}); correct path"
            )
        yield saved_split(owner, path, uri, split), "datasets"
        return
    uris, in_directory = matching(owner, path, base)
    if in_directory:
        uris = _of_format(owner, path, uris, format)
    for file in uris:
        yield file, format or format_of(owner, file)


def _of_format(owner: str, path: str, uris: list[str], format: Format | None) -> list[str]:
    """What of a directory belongs to the corpus: the files of the given format, or all but markers (_SUCCESS)."""
    if format == "text":
        return uris
    if format is None:
        kept = [uri for uri in uris if split_suffixes(uri)[1] in SUFFIXES or not os.path.basename(uri).startswith("_")]
    else:
        kept = [uri for uri in uris if SUFFIXES.get(split_suffixes(uri)[1]) == format]
    if not kept:
        raise BadInput(f"{owner}: directory '{path}' holds no {format or 'readable'} file; correct path or format")
    return kept
