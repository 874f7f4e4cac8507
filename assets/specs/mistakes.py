"""What pydantic finds wrong with a document, in plain words: one line per mistake, file:line field: reason."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from assets.specs.spec import NAME_PATTERN
from assets.specs.yaml_positions import Document, Location
from compute.errors import BadInput

Model = TypeVar("Model", bound=BaseModel)

#: What a value should be, by pydantic's name for the mistake.
EXPECTED = {
    "string_type": "text (in quotes where YAML reads it otherwise)",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "model_type": "fields of its own",
    "model_attributes_type": "fields of its own",
    "dict_type": "fields of its own",
    "list_type": "a list",
    "tuple_type": "a list",
    "literal_error": "{expected}",
    "greater_than": "greater than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
}
NAME = "lower-case letters, digits, '-' and '_', beginning with a letter or digit"
LONGEST_VALUE = 60


def validated(document: Document, model: type[Model]) -> Model:
    """The document as `model`. Raises BadInput with one line per mistake."""
    try:
        return model.model_validate(document.content)
    except ValidationError as error:
        raise BadInput("\n".join(_lines(document, model, error.errors(include_url=False)))) from error
    except RecursionError as error:
        raise BadInput(f"{document.path}:1: refers to itself without end; write it out") from error


def _lines(document: Document, model: type[BaseModel], errors: list[dict[str, Any]]) -> Iterator[str]:
    """A value that fits none of several kinds is one mistake, although pydantic reports it once for each
    kind.
    """
    expected: dict[Location, list[str]] = {}
    for error in errors:
        if expectation := _expectation(error):
            expected.setdefault(_location(document, error), []).append(expectation)
    told: set[Location] = set()
    for error in errors:
        location = _location(document, error)
        if _expectation(error):
            if location not in told:
                told.add(location)
                kinds = _one_of(expected[location])
                yield _line(document, location, f"should be {kinds}, not {shown_value(error['input'])}")
        else:
            yield _line(document, location, _reason(model, error))


def _one_of(expectations: list[str]) -> str:
    """`a, b or c`, of expectations that may be such lists themselves."""
    kinds = list(dict.fromkeys(kind for each in expectations for kind in re.split(", | or ", each)))
    return " or ".join(filter(None, (", ".join(kinds[:-1]), kinds[-1])))


def _location(document: Document, error: dict[str, Any]) -> Location:
    """Where in the document; pydantic puts in which of several kinds it tried."""
    location: Location = ()
    for part in error["loc"]:
        if (*location, part) in document.lines:
            location = (*location, part)
    return (*location, error["loc"][-1]) if error["type"] == "missing" else location


def _line(document: Document, location: Location, reason: str) -> str:
    return f"{document.place(location)}: {reason}"


def _expectation(error: dict[str, Any]) -> str | None:
    context = error.get("ctx", {})
    if error["type"] == "string_pattern_mismatch":
        return NAME if context["pattern"] == NAME_PATTERN else f"like {context['pattern']}"
    if error["type"] in EXPECTED:
        return EXPECTED[error["type"]].format(**{name: _bound(value) for name, value in context.items()})
    return None


def _bound(value: Any) -> Any:
    """Without a point where it is whole."""
    return f"{value:.16g}" if isinstance(value, float) else value


def _reason(model: type[BaseModel], error: dict[str, Any]) -> str:
    if error["type"] == "missing":
        return "is missing; declare it"
    if error["type"] == "extra_forbidden":
        known = _known_fields(model, error["loc"][:-1])
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return (
            f"is not a known field; did you mean {near[0]}?"
            if near
            else f"is not a known field; known: {', '.join(known)}"
        )
    if error["type"] in ("string_too_short", "too_short"):
        return "is empty; fill it or leave it out"
    return error["msg"].removeprefix("Value error, ")


def _known_fields(model: type[BaseModel], location: Location) -> list[str]:
    """Field names of the model at a path inside `model`, as far as the path can be followed."""
    for part in location:
        if part in model.model_fields:
            inner = list(_models(model.model_fields[str(part)].annotation))
            if not inner:
                return []
            model = inner[0]
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The pydantic models inside of an annotation: `X`, `X | None`, `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def shown_value(value: Any) -> str:
    """A field's value in a sentence."""
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def near_matches(asked: str, known: Collection[str], what: str, *, shown: int = 3) -> str:
    """What may have been meant: "did you mean …?", or else some of the names that there are."""
    if near := difflib.get_close_matches(asked, known, n=shown):
        return f"did you mean {' or '.join(near)}?"
    names = sorted(known)
    return f"known {what}: {', '.join(names[:shown])}{', …' if len(names) > shown else ''}" if names else f"no {what}"


def known_methods(asked: str, known: Collection[str]) -> str:
    """The same of methods, which are few: all of them."""
    return near_matches(asked, known, "methods", shown=max(1, len(known)))
