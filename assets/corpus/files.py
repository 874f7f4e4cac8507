"""Where files are: resolving, matching and opening them, locally or wherever fsspec reaches.

Formats are told by suffix, compression too (`.gz`, `.zst`). Arrow decompresses, because it alone of the candidates
reports a truncated zstd stream as an error instead of as the end of the file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import takewhile
from typing import TYPE_CHECKING, BinaryIO

from assets.corpus.reader import SourceFile
from compute.errors import BadInput

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
READ_BYTES = 1 << 20
GLOB_SIGNS = "*?["


def resolved(path: str, base: str | os.PathLike[str]) -> str:
    """An absolute path or URI; a relative path starts from `base`, the study file's directory."""
    path = os.path.expanduser(path)
    if "://" in path:
        return path
    if os.path.isabs(path):
        return os.path.normpath(path)
    root = os.fspath(base)
    if "://" in root:
        return f"{root.rstrip('/')}/{path}"
    return os.path.normpath(os.path.join(os.path.abspath(root), path))


def shown(uri: str, base: str | os.PathLike[str]) -> str:
    """The path for people: relative to `base` where it lies inside, otherwise in full."""
    root = resolved("", base).rstrip("/") + "/"
    return uri.removeprefix(root)


def filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URI and the path in it; a plain path is never taken for a URI."""
    import fsspec

    return fsspec.core.url_to_fs(uri) if "://" in uri else (fsspec.filesystem("file"), uri)


def fixed_directory(path: str, base: str | os.PathLike[str], *, one_source: bool) -> str:
    """The deepest directory that a path of a study names before any sign of a glob.

    With `one_source`, the path names a single source, even where that is a directory.
    """
    uri = resolved(path, base).rstrip("/")
    fs, root = filesystem(uri)
    if any(sign in path for sign in GLOB_SIGNS):
        parts = root.split("/")
        root = "/".join(parts[: next(n for n, part in enumerate(parts) if any(sign in part for sign in GLOB_SIGNS))])
    elif one_source or not fs.isdir(root):
        root = os.path.dirname(root)
    return (root or "/") if _is_local(fs) else fs.unstrip_protocol(root)


def common_directory(directories: Collection[str]) -> str:
    """The deepest directory that holds all of these, the local ones if there are any; "" where stores share none."""
    local = [directory for directory in directories if "://" not in directory]
    levels = zip(*(directory.rstrip("/").split("/") for directory in local or directories), strict=False)
    common = [level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels)]
    if local:
        return "/".join(common) or "/"
    return "/".join(common) if any(common[2:]) else ""


def stored_key(uri: str, directory: str) -> str:
    """The name of a file in tables, fingerprints and ids: relative to `directory` if inside, else in full."""
    fs, root = filesystem(uri)
    full = uri if _is_local(fs) else fs.unstrip_protocol(root)  # one spelling: memory://a and memory:///a are the same
    return full.removeprefix(directory.rstrip("/") + "/") if directory else full


def split_suffixes(path: str) -> tuple[str, str, str | None]:
    """("web.2024", ".jsonl", "gzip") of "…/web.2024.jsonl.gz"."""
    stem, suffix = os.path.splitext(os.path.basename(path))
    compression = COMPRESSION.get(suffix.lower())
    if compression:
        stem, suffix = os.path.splitext(stem)
    return stem, suffix.lower(), compression


def matching(owner: str, path: str, base: str | os.PathLike[str]) -> tuple[list[str], bool]:
    """The URIs that a path of a study names, sorted, and whether it named a directory (then: all files beneath it)."""
    uri = resolved(path, base)
    fs, root = filesystem(uri)
    if fs.isdir(root):
        found = [file for file in fs.find(root) if not _hidden(file, root)]
        return _uris(owner, path, fs, found, f"is a directory without files: {uri}"), True
    if fs.exists(root):
        return [uri], False
    if not any(sign in path for sign in GLOB_SIGNS):
        raise BadInput(f"{owner}: path '{path}' does not exist ({uri}); correct path")
    found = [file for file in fs.glob(root) if not fs.isdir(file)]
    return _uris(owner, path, fs, found, f"matches no file (looked for {uri})"), False


def _hidden(file: str, root: str) -> bool:
    return any(part.startswith(".") for part in file.removeprefix(root).split("/"))


def _uris(owner: str, path: str, fs: AbstractFileSystem, found: list[str], otherwise: str) -> list[str]:
    if not found:
        raise BadInput(f"{owner}: path '{path}' {otherwise}; correct path")
    return sorted(found) if _is_local(fs) else sorted(fs.unstrip_protocol(file) for file in found)


def _is_local(fs: AbstractFileSystem) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def source_file(owner: str, uri: str, base: str | os.PathLike[str], directory: str) -> SourceFile:
    """The file at `uri`, or all files of the directory there, with size and time of the last change.

    It is shown relative to `base`, the study's directory, and stored relative to `directory`, the corpus's.
    """
    path = shown(uri, base)
    if not path.isprintable():
        raise BadInput(f"{owner}: the file name {path!r} has characters that cannot be printed; rename the file")
    fs, root = filesystem(uri)
    with readable(owner, path):
        parts = fs.find(root) if fs.isdir(root) else [root]
        size = sum(fs.size(part) or 0 for part in parts)
        mtime_ns = max(_modified_ns(fs, part) for part in parts)
    return SourceFile(path=path, key=stored_key(uri, directory), uri=uri, bytes=size, mtime_ns=mtime_ns)


def _modified_ns(fs: AbstractFileSystem, root: str) -> int:
    if _is_local(fs):
        return os.stat(root).st_mtime_ns
    try:
        return int(fs.modified(root).timestamp() * 1_000_000) * 1000
    except (NotImplementedError, KeyError):
        return 0  # this store keeps no time: the file is then read again to see whether it changed


@contextmanager
def readable(owner: str, path: str) -> Iterator[None]:
    """Turn what the operating system or Arrow says about an unreadable file into our sentence."""
    try:
        yield
    except FileNotFoundError as error:
        raise BadInput(f"{owner}: {path} does not exist; restore it, or correct path") from error
    except PermissionError as error:
        raise BadInput(f"{owner}: {path} may not be read (permission denied); grant read permission") from error
    except IsADirectoryError as error:
        raise BadInput(f"{owner}: {path} is a directory where a file is needed; correct path") from error
    except OSError as error:
        if "Truncated" in str(error):
            raise BadInput(f"{owner}: {path} is truncated (its compressed stream ends early); copy it again") from error
        reason = " ".join(str(error.strerror or error).split())
        raise BadInput(f"{owner}: {path} cannot be read ({reason}); replace it or take it out of path") from error


@contextmanager
def opened(owner: str, file: SourceFile, *, offset: int = 0) -> Iterator[BinaryIO]:
    """The file's decompressed bytes from `offset` on, as a buffered stream."""
    compression = split_suffixes(file.path)[2]
    if compression and not file.bytes:
        raise BadInput(f"{owner}: {file.path} is truncated (0 bytes are no {compression} file); copy it again")
    fs, root = filesystem(file.uri)
    with readable(owner, file.path), fs.open(root, "rb") as plain:
        stream = _decompressed(plain, compression) if compression else plain
        _skip(stream, offset, seekable=not compression)
        yield stream


def _decompressed(plain: BinaryIO, compression: str) -> BinaryIO:
    import pyarrow

    return BufferedReader(pyarrow.CompressedInputStream(pyarrow.PythonFile(plain, mode="r"), compression), READ_BYTES)


def _skip(stream: BinaryIO, offset: int, *, seekable: bool) -> None:
    if seekable:
        stream.seek(offset)
        return
    while offset:
        offset -= len(stream.read(min(offset, READ_BYTES))) or offset


def new_digest() -> hashlib.blake2b:
    """The hash that tells whether a source changed."""
    return hashlib.blake2b(digest_size=16)


def content_digest(owner: str, file: SourceFile) -> str:
    """The digest of a file's bytes as stored, compressed or not."""
    fs, root = filesystem(file.uri)
    with readable(owner, file.path), fs.open(root, "rb") as stream:
        return hashlib.file_digest(stream, new_digest).hexdigest()
