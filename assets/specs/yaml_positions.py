"""YAML with the line of every value kept, so that a mistake is reported as file:line field: reason.

Plain data only: a tag that would make a Python object is a mistake, and so is a key that comes twice, which
YAML's own reader lets pass with the last value.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compute.errors import BadInput

Location = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A YAML file's content, and the line (from 1) of each value by its path of keys and indices."""

    path: Path
    content: Any
    lines: dict[Location, int]

    def line(self, location: Location) -> int:
        """The line of a value, or of the nearest thing around it that is there."""
        while location not in self.lines:
            location = location[:-1]
        return self.lines[location]

    def place(self, location: Location) -> str:
        """A value's place as messages name it: file:line field."""
        place = f"{self.path}:{self.line(location)}"
        return f"{place} {dotted(location)}" if location else place


def read_yaml(path: Path, *, what: str = "study", fields: str = "'study: name' and so on") -> Document:
    """Reads one YAML document of fields. Raises BadInput for a file that is missing, unreadable or not YAML.

    Messages name `what` the file is to be, and the `fields` that it declares.
    """
    loader = _loader(path, what)
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise BadInput(f"{path}:1: holds no fields; declare a {what} as {fields}")
        lines: dict[Location, int] = {}
        _walk(path, root, (), lines, set())
        return Document(path, loader.construct_document(root), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadInput(f"{path}:{mark.line + 1 if mark else 1}: is not valid YAML: {error.problem}") from error
    except RecursionError as error:
        raise BadInput(f"{path}:1: is nested too deeply for a {what}; write it flat") from error
    finally:
        loader.dispose()


def _loader(path: Path, what: str) -> yaml.SafeLoader:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise BadInput(f"{path}: there is no such file; name the YAML file of a {what}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: is not text in UTF-8; save it as UTF-8") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BadInput(
            f"{path}:{line}: is not valid YAML: holds the control character {chr(error.character)!r}"
        ) from error


def _walk(path: Path, node: yaml.Node, location: Location, lines: dict[Location, int], seen: set[int]) -> None:
    """Notes the line of every value, and refuses keys that come twice or are not plain.

    What an alias (`*name`) repeats is noted where it stands first, so a document that repeats itself without
    end ends here.
    """
    lines.setdefault(location, node.start_mark.line + 1)
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise BadInput(f"{path}:{key.start_mark.line + 1}: is not valid YAML: a field's name is plain text")
            inner = (*location, key.value)
            if inner in lines:
                raise BadInput(f"{path}:{key.start_mark.line + 1} {dotted(inner)}: stands there twice; keep one")
            lines[inner] = key.start_mark.line + 1
            _walk(path, value, inner, lines, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(path, value, (*location, index), lines, seen)


def dotted(location: Location) -> str:
    return ".".join(map(str, location))
