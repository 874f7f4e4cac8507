"""What all parts of a study file have in common, and the kinds of values that several of them take."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

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


class Spec(BaseModel):
    """A part of a study file: unknown fields and infinite numbers are mistakes; nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
