"""YAML with the line of every value kept, so that a mistake is reported as file:line field: reason."""

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


def read_yaml(path: Path) -> Document:
    """Reads one YAML document, plain data only. Raises BadInput for a file that is missing, unreadable or not YAML, and
    for a key that comes twice."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise BadInput(f"{path}: there is no such file; name a study's YAML file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInput(f"{path}:{line}: is not valid YAML: {error.problem}") from error
    if not isinstance(root, yaml.MappingNode):
        raise BadInput(f"{path}:1: holds no fields; declare a study as 'study: name' and so on")
    lines: dict[Location, int] = {}
    _walk(path, root, (), lines)
    return Document(path, yaml.safe_load(text), lines)


def _walk(path: Path, node: yaml.Node, location: Location, lines: dict[Location, int]) -> None:
    lines.setdefault(location, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*location, key.value)
            if inner in lines:
                raise BadInput(f"{path}:{key.start_mark.line + 1} {_dotted(inner)}: stands there twice; keep one")
            lines[inner] = key.start_mark.line + 1
            _walk(path, value, inner, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(path, value, (*location, index), lines)


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))
