"""Where a lake is: a directory or an object store, reached by the same calls, marked with its layout version.

`_headwater.json` at the root says which layout the tables have. A newer layout is refused with a sentence; a
lake without the mark is marked by its first writer. Files go through delta-rs' object store, so that whatever
can hold the tables can hold the mark.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from compute.errors import BadInput

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, PyFileSystem

LAYOUT = 1
LAYOUT_FILE = "_headwater.json"
LOG = "_delta_log"

#: polars' Delta scan looks for a directory outside of these letters under its percent-encoded name, and takes
#: '=' for a Hive partition; pyarrow does not.
POLARS_PATH = re.compile(r"[A-Za-z0-9/!$&'()+,.:;@_~-]*")
#: delta-rs panics on these in a directory's name, loses the table's history, or decodes them and looks
#: elsewhere.
DELTA_REFUSES = re.compile(r"[\[\]\\^|#?]|%[0-9A-Fa-f]{2}")


@dataclass(frozen=True)
class Place:
    """The root of a lake: `uri` as the user gave it, and the options of its object store."""

    uri: str
    storage_options: dict[str, str] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri or self.uri.startswith("file://")

    @property
    def root(self) -> str:
        """An absolute directory, or the URI."""
        if not self.is_local:
            return self.uri.rstrip("/")
        path = unquote(urlparse(self.uri).path) if self.uri.startswith("file://") else self.uri
        root = str(Path(path).expanduser().absolute())
        if found := DELTA_REFUSES.search(root):
            raise BadInput(
                f"the lake {root}: Delta cannot use a directory with {found[0]!r} in its path; choose another"
            )
        return root

    @property
    def polars_can_scan(self) -> bool:
        return not self.is_local or POLARS_PATH.fullmatch(self.root) is not None

    @property
    def options(self) -> dict[str, str] | None:
        return self.storage_options or None

    def files(self, below: str = "") -> PyFileSystem:
        """The files of the lake, or of one table in it."""
        from deltalake.fs import DeltaStorageHandler
        from pyarrow.fs import PyFileSystem

        return PyFileSystem(DeltaStorageHandler(f"{self.root}/{below}", self.options))

    def listed(self, below: str = "", *, deep: bool = False) -> list[FileInfo]:
        """The files and directories in a directory of the lake (all files under it with `deep`); none where it is not
        there.
        """
        from pyarrow.fs import FileSelector

        if self.is_local and not Path(self.root, below).is_dir():
            return []
        found = self.files().get_file_info(FileSelector(below, recursive=deep, allow_not_found=True))
        return sorted(found, key=lambda info: info.path)

    def delete_table(self, path: str) -> None:
        """Deletes a table: first its log, the newest version first, then everything else that lies in its directory.

        One that is killed in between leaves an earlier version, or files that belong to no table, but never a table
        that promises rows which are gone.
        """
        files = self.files()
        for info in sorted(self.listed(f"{path}/{LOG}", deep=True), key=lambda info: info.path, reverse=True):
            if info.is_file:
                files.delete_file(info.path)
        self.delete(path)

    def delete(self, below: str) -> None:
        """Deletes every file under a directory of the lake, and the directories that this leaves empty."""
        if not below.strip("/"):
            raise ValueError("the whole lake is not deleted")
        if self.listed(below):
            self.files().delete_dir(below)
        if self.is_local:
            _remove_empty(Path(self.root, below), Path(self.root))

    def check_layout(self, *, mark: bool) -> bool:
        """Refuses a lake of a newer Headwater. Returns whether the lake carries a mark; `mark` gives it one.

        Writers of one layout write the same bytes, in one atomic put, so it does not matter which of them is
        last.
        """
        found = self._layout()
        if found is None and mark:
            self._write_mark()
            found = self._layout()
        if found is not None and found > LAYOUT:
            raise BadInput(
                f"the lake {self.root} has layout {found}, and this Headwater reads layout {LAYOUT}: "
                "update Headwater, or choose another lake (HEADWATER_LAKE)"
            )
        return found is not None

    def _layout(self) -> int | None:
        text = self._mark()
        if text is None:
            return None
        try:
            return int(json.loads(text)["layout"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(
                f'{self.root}/{LAYOUT_FILE}: should read {{"layout": {LAYOUT}}}, but holds {text[:60]!r}; restore it'
            ) from error

    def _mark(self) -> Any:
        if self.is_local and not Path(self.root).is_dir():
            return None
        try:
            with self.files().open_input_file(LAYOUT_FILE) as stream:
                return stream.readall()
        except FileNotFoundError:
            return None

    def _write_mark(self) -> None:
        if self.is_local:
            try:
                Path(self.root).mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise BadInput(f"the lake {self.root} cannot be made: a file of that name is in the way") from error
        from deltalake._internal import DeltaFileSystemHandler

        # Not through pyarrow as in `files`: its stream hands over buffers, and delta-rs' takes only bytes.
        stream = DeltaFileSystemHandler(self.root, self.options).open_output_stream(LAYOUT_FILE, None)
        stream.write(json.dumps({"layout": LAYOUT}).encode())
        stream.close()  # a put in one piece: until here, nobody sees the file


def _remove_empty(directory: Path, root: Path) -> None:
    """Removes directories without files: `directory` with all under it, and those above it up to the root."""
    above = [parent for parent in directory.parents if root in parent.parents]
    for path in (*(inner for inner, _, _ in os.walk(directory, topdown=False)), *above):
        with suppress(OSError):  # not empty, or not there
            os.rmdir(path)
