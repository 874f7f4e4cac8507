"""Reading a query set. Queries are few and precious: one that is broken is an error, not set aside."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from assets.corpus.parsing import field_value, scalar_text
from assets.corpus.preflight import check_fields
from assets.corpus.reader import RawRecord
from assets.corpus.sources import Source, open_files
from assets.specs.queries import QueriesSpec, QueryFields
from compute.errors import BadInput

WORDS = ("task", "kind", "answer", "match")
MATCHES = ("contains", "ends")
DEFAULT_FIELDS = QueryFields()


@dataclass(frozen=True, slots=True)
class Query:
    """One query as written: a prompt and what is known about it."""

    query_id: str
    prompt: str
    completion: str | None = None  # None: the model's own greedy completion
    task: str | None = None
    kind: str | None = None  # factual, reasoning and control are the usual ones
    answer: str | None = None
    match: str | None = None  # how the answer must stand in the completion: contains or ends
    extra: str = "{}"  # the row's other fields, as a JSON object
    location: str = ""
    step_answers: tuple[str, ...] = ()  # what the steps to the answer come to


def read_queries(spec: QueriesSpec, base: str | os.PathLike[str]) -> list[Query]:
    """All queries in the order of the files; `BadInput` names the file and line of the first that is broken."""
    source = open_files(spec.owner, spec.path, base, format=spec.format, allowed=("jsonl", "parquet"))
    rows = list(_rows(spec, source))
    if not rows:
        raise BadInput(f"{spec.owner}: {source.files[0].path} holds no queries; add one row per query, or correct path")
    fields = {role: field for role, field in spec.fields.model_dump().items() if field is not None}
    _check_named_fields(spec, source, rows, fields)
    held = {role: field for role, field in fields.items() if _held(rows, field)}
    queries = [_query(spec, row, number, held) for number, row in enumerate(rows, 1)]
    _check_unique(spec, queries)
    return queries


def _rows(spec: QueriesSpec, source: Source) -> Iterator[RawRecord]:
    for file in source.files:
        source.reader.probe(file)
        for row in source.reader.read(file):
            if row.problem:
                _refuse(spec, row, f"cannot be read: {row.problem.rstrip('.')}", "mend or delete it")
            yield row


def _held(rows: list[RawRecord], field: str) -> bool:
    return any(field_value(row.record, field) is not None for row in rows)


def _check_named_fields(spec: QueriesSpec, source: Source, rows: list[RawRecord], fields: dict[str, str]) -> None:
    """The prompt, and every field that the study named otherwise than by default, must occur."""
    needed = {role for role, field in fields.items() if role == "prompt" or field != getattr(DEFAULT_FIELDS, role)}
    mapping = {f"fields.{role}": fields[role] for role in fields if role in needed}
    check_fields(spec.owner, source.files[0].path, rows, None, mapping)


def _query(spec: QueriesSpec, row: RawRecord, number: int, fields: dict[str, str]) -> Query:
    values = {role: field_value(row.record, field) for role, field in fields.items()}
    words = {role: _word(spec, row, fields[role], values[role]) for role in WORDS if role in fields}
    if words.get("match") not in (None, *MATCHES):
        _refuse(spec, row, f"has '{words['match']}' in field '{fields['match']}'", f"use {' or '.join(MATCHES)}")
    return Query(
        query_id=_query_id(spec, row, number, fields.get("id"), values.get("id")),
        prompt=_text(spec, row, fields["prompt"], values["prompt"], needed=True),
        completion=_text(spec, row, fields.get("completion"), values.get("completion"), needed=False),
        extra=_extra(row.record, set(spec.fields.model_dump().values())),
        location=row.location,
        step_answers=_step_answers(spec, row, fields.get("step_answers"), values.get("step_answers")),
        **words,
    )


def _query_id(spec: QueriesSpec, row: RawRecord, number: int, field: str | None, value: Any) -> str:
    if field is None:
        return f"q{number:04d}"
    query_id = scalar_text(value)
    if not query_id:
        _refuse(spec, row, f"has no id in field '{field}'", "give every query an id, or none")
    return query_id


def _text(spec: QueriesSpec, row: RawRecord, field: str | None, value: Any, *, needed: bool) -> str | None:
    if value is None and not needed:
        return None
    if not isinstance(value, str):
        _refuse(spec, row, f"has no text in field '{field}'", "write a string there")
    if not (value.strip() if needed else value):
        hint = "write the prompt" if needed else "write the completion, or leave the field out for the model's own"
        _refuse(spec, row, f"has an empty field '{field}'", hint)
    return value


def _word(spec: QueriesSpec, row: RawRecord, field: str, value: Any) -> str | None:
    word = scalar_text(value)
    if word is None and isinstance(value, (dict, list, bytes)):
        _refuse(spec, row, f"has more than a string or number in field '{field}'", "write a single value")
    return word


def _step_answers(spec: QueriesSpec, row: RawRecord, field: str | None, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    steps = [scalar_text(step) for step in value] if isinstance(value, (list, tuple)) else [None]
    if not all(step and step.strip() for step in steps):
        _refuse(
            spec,
            row,
            f"has no list of texts in field '{field}'",
            'write what each step comes to, such as ["4 + 2 = 6"]',
        )
    return tuple(steps)


def _extra(record: dict[str, Any], mapped: set[str | None]) -> str:
    others = {name: value for name, value in record.items() if name not in mapped}
    return json.dumps(others, ensure_ascii=False, sort_keys=True, default=str)


def _check_unique(spec: QueriesSpec, queries: list[Query]) -> None:
    first: dict[str, str] = {}
    for query in queries:
        if query.query_id in first:
            raise BadInput(
                f"{spec.owner}: id '{query.query_id}' at {query.location} is already that of {first[query.query_id]}; "
                "give every query its own id"
            )
        first[query.query_id] = query.location


def _refuse(spec: QueriesSpec, row: RawRecord, what: str, remedy: str) -> NoReturn:
    raise BadInput(f"{spec.owner}: the query at {row.location} {what}; {remedy}")
