"""What all parts of a study file have in common, and the kinds of values that several of them take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticKnownError

NAME_PATTERN = "^[a-z0-9][a-z0-9_-]*$"


def _one_or_many(paths: Any) -> Any:
    return (paths,) if isinstance(paths, str) else paths


def _checked_paths(paths: tuple[str, ...]) -> tuple[str, ...]:
    if not paths or not all(path.strip() for path in paths):
        raise ValueError("path is empty; name a file, a directory or a glob")
    return paths


Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Paths = Annotated[tuple[str, ...], BeforeValidator(_one_or_many), AfterValidator(_checked_paths)]
FieldName = Annotated[str, Field(min_length=1)]


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types inside of an annotation, and the values of a Literal."""
    yield annotation
    for inner in get_args(annotation):
        yield from _kinds(inner)


class Spec(BaseModel):
    """A part of a study file: unknown fields and infinite numbers are mistakes; nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _a_number_is_not_true(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic takes true as 1."""
        kinds = list(_kinds(cls.model_fields[info.field_name].annotation))
        given = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(each, bool) for each in given) and bool not in kinds and (int in kinds or float in kinds):
            raise PydanticKnownError("int_type" if int in kinds else "float_type")
        return value
