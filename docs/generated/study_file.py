"""reference/study-file.md: every field of a study file, from the pydantic models that read it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from assets.specs.spec import NAME_PATTERN
from assets.specs.study import StudySpec
from docs.generated.markdown import code, grid, sentence

OPENING = """# The study file

One YAML file declares a study. A field that is not on this page is a mistake, and so is one that stands there twice;
`headwater run` names file, line and field before any work starts. Paths start from the directory of the file itself.
A *name* is made of lower-case letters, digits, `-` and `_`, and begins with a letter or digit.

"""
LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}
WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "nothing"}


@dataclass(frozen=True)
class Section:
    """The fields of one model, at the first path at which a study file has it."""

    path: str
    model: type[BaseModel]


def sections() -> list[Section]:
    """Every part of a study file once, the whole first."""
    found: dict[type[BaseModel], Section] = {}

    def walk(path: str, model: type[BaseModel]) -> None:
        if model in found:
            return
        found[model] = Section(path, model)
        for name, field in model.model_fields.items():
            for inner in _models(field.annotation):
                walk(f"{path}.{name}".removeprefix("."), inner)

    walk("", StudySpec)
    return list(found.values())


def study_file_page() -> str:
    every = sections()
    places = {section.model: section.path for section in every}
    return OPENING + "\n".join(_section(section, places) for section in every)


def _section(section: Section, places: dict[type[BaseModel], str]) -> str:
    schema = section.model.model_json_schema()
    rows = [
        (
            f"`{name}`",
            _kind(field, schema["properties"][name], places),
            sentence(field.description or ""),
            _default(field),
        )
        for name, field in section.model.model_fields.items()
    ]
    told = " ".join(inspect.cleandoc(section.model.__doc__ or "").split())
    title = f"## {section.path}\n" if section.path else "## The whole file\n"
    return f"{title}\n{told}\n\n{grid(('field', 'value', 'meaning', 'default'), rows)}"


def _kind(field: FieldInfo, schema: dict[str, Any], places: dict) -> str:
    if inner := next(_models(field.annotation), None):
        off = f" or {code('false')}" if False in _choices(field.annotation) else ""
        return f"[fields of its own](#{places[inner].replace('.', '')}){off}"
    kinds = list(_kinds(schema))
    one_too = ["text"] if any(isinstance(each, BeforeValidator) for each in _annotated(field)) else []
    return " or ".join(dict.fromkeys([*one_too, *kinds]))


def _annotated(field: FieldInfo) -> list[Any]:
    """What is said about the values of a field beside their type, inside of `X | None` too."""
    return [
        *field.metadata,
        *(each for part in get_args(field.annotation) for each in getattr(part, "__metadata__", ())),
    ]


def _kinds(schema: dict[str, Any]) -> Iterator[str]:
    """What a value may be; that it may be left out (null) goes without saying."""
    if "anyOf" in schema:
        for each in schema["anyOf"]:
            if each.get("type") != "null":
                yield from _kinds(each)
    elif "enum" in schema or "const" in schema:
        yield from (code(value) for value in schema.get("enum", [schema.get("const")]))
    elif schema.get("type") == "array":
        yield f"list of {' or '.join(dict.fromkeys(_kinds(schema['items'])))}"
    elif schema.get("type") == "object":
        yield "fields of one’s own"
    elif schema.get("pattern") == NAME_PATTERN:
        yield "name"
    else:
        limits = [text.format(schema[name]) for name, text in LIMITS.items() if name in schema]
        yield ", ".join([WORDS[schema["type"]], *limits])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.default
    if value is None or value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    return code(json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False))


def _choices(annotation: Any) -> Iterator[Any]:
    """The values of the `Literal`s inside of an annotation."""
    for argument in get_args(annotation):
        yield from (argument,) if get_origin(annotation) is Literal else _choices(argument)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
