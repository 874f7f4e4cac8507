"""The fields of a study file as rows: dotted names, values, and what each means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from assets.findings.report.page import Setting


def settings_of(spec: BaseModel) -> list[Setting]:
    """All fields, those that the file gives and those that were left to their defaults."""
    return list(_fields(spec, "", is_given=True))


def _fields(spec: BaseModel, prefix: str, *, is_given: bool) -> Iterator[Setting]:
    for name, field in type(spec).model_fields.items():
        value, given = getattr(spec, name), is_given and name in spec.model_fields_set
        if isinstance(value, BaseModel):
            yield from _fields(value, f"{prefix}{name}.", is_given=given)
        else:
            yield Setting(f"{prefix}{name}", _text(value), field.description or "", given)


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
