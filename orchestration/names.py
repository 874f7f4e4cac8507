"""Names and texts that a study file's fields allow, but that would fail later: in Dagster, on a disk, on a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.specs.study import StudySpec
from assets.specs.yaml_positions import Document, Location
from compute.errors import BadInput

#: A name becomes a directory, a file with a suffix (255 bytes at most) and part of a tag's key in MLflow (250).
LONGEST_NAME = 100
NAMED = ("corpus", "model", "query_model", "curvature", "queries")


def check_names(document: Document, spec: StudySpec) -> None:
    """Raises BadInput with one line per mistake."""
    if lines := [f"{document.place(location)}: {reason}" for location, reason in _mistakes(spec)]:
        raise BadInput("\n".join(lines))


def shown(text: str) -> str:
    """A text as it can be printed and sent: a file's name may be any bytes, an escape in YAML half a character."""
    return text.encode("utf-8", "backslashreplace").decode()


def _mistakes(spec: StudySpec) -> Iterator[tuple[Location, str]]:
    named = [(("study",), spec.study)]
    named += [((field, "name"), part.name) for field in NAMED if (part := getattr(spec, field))]
    for location, name in named:
        if len(name) > LONGEST_NAME:
            yield location, f"has {len(name)} characters; use at most {LONGEST_NAME}"
    for location, text in _texts(spec.model_dump()):
        if "\0" in text or shown(text) != text:
            yield location, f"holds a character that no text can hold: {text!a}; write it without"
    for index, owner in enumerate(spec.owners):
        if not _is_owner(owner):
            yield ("owners", index), f"{owner!r} is no owner to Dagster; write team:name or an e-mail address"


def _texts(value: Any, location: Location = ()) -> Iterator[tuple[Location, str]]:
    """Every text in nested values, and where it stands."""
    if isinstance(value, str):
        yield location, value
    elif isinstance(value, (dict, list, tuple)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(inner, (*location, key))


def _is_owner(owner: str) -> bool:
    """Dagster's own rule for addresses is narrower than that of the field."""
    try:
        dg.AssetSpec("any", owners=[owner])
    except dg.DagsterInvalidDefinitionError:
        return False
    return True
