"""From the rows of a shard to records; what is no record is set aside with the reason, never dropped.

A record needs a text that is more than white space and, where the corpus maps an id field, an id that no other record
of the shard has. Too many rejected records are a mistake of the mapping rather than of the records: an error.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from assets.corpus.reader import RawRecord
from assets.corpus.shards import Shard
from assets.corpus.sources import read_slices
from assets.specs.corpus import CorpusSpec

EXCERPT_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Record:
    """One source record."""

    record_id: str
    text: str
    source: str
    location: str
    position: int  # order in the shard, without the rejected ones


@dataclass(frozen=True, slots=True)
class Rejected:
    """One row that is no record. Reasons are fixed sentences, so that they can be counted."""

    location: str
    record_id: str | None
    reason: str
    excerpt: str


@dataclass(frozen=True)
class ParsedShard:
    """All rows of a shard: records and rejected ones."""

    records: list[Record]
    rejected: list[Rejected]


class _RejectedError(Exception):
    """The reason why a row is set aside."""


def parse_shard(spec: CorpusSpec, base: str | os.PathLike[str], shard: Shard) -> ParsedShard:
    """Read and parse the shard's rows, slice by slice."""
    parsed = ParsedShard(records=[], rejected=[])
    seen: set[str] = set()
    for row, default_source in read_slices(spec, base, shard.present_slices):
        try:
            record_id = _record_id(spec, row, seen)
            text, source = _text(spec, row), _source(spec, row) or default_source
        except _RejectedError as reason:
            parsed.rejected.append(_set_aside(spec, row, str(reason)))
            continue
        seen.add(record_id)
        parsed.records.append(Record(record_id, text, source, row.location, len(parsed.records)))
    return parsed


def rejected_share_problem(spec: CorpusSpec, records: int, rejected: Sequence[Rejected]) -> str | None:
    """The sentence for a share of rejected records, next to `records` good ones, above `max_rejected`."""
    total = records + len(rejected)
    if len(rejected) <= spec.max_rejected * total:
        return None
    reason, times = Counter(row.reason for row in rejected).most_common(1)[0]
    example = next(row.location for row in rejected if row.reason == reason)
    return (
        f"{spec.owner}: {len(rejected)} of {total} records were rejected, more than max_rejected {spec.max_rejected:g} "
        f"allows; {times} because: {reason} (for example {example}); mend the records or the mapping of fields, "
        "or raise max_rejected"
    )


def field_value(record: dict[str, Any], field: str) -> Any:
    """The field's value, None where it is missing; `meta.source` reaches into `meta` if no field has that very name."""
    if field in record or "." not in field:
        return record.get(field)
    top, rest = field.split(".", 1)
    inner = record.get(top)
    return field_value(inner, rest) if isinstance(inner, dict) else None


def scalar_text(value: Any) -> str | None:
    """A string as it is, a number in digits; None for what is missing or no single value."""
    if isinstance(value, float) and math.isnan(value):
        return None
    if value is None or isinstance(value, (dict, list, bytes)):
        return None
    return value if isinstance(value, str) else json.dumps(value, default=str).strip('"')


def _record_id(spec: CorpusSpec, row: RawRecord, seen: set[str]) -> str:
    if row.problem or row.record is None:
        raise _RejectedError(row.problem or "The row holds no record.")
    if spec.fields.id is None:
        return row.name
    value = field_value(row.record, spec.fields.id)
    record_id = scalar_text(value)
    if not record_id:
        missing = value is None or value == "" or isinstance(value, float)
        what = "missing or empty" if missing else "no string or number"
        raise _RejectedError(f"The id field '{spec.fields.id}' is {what}.")
    if record_id in seen:
        raise _RejectedError("The id occurs earlier in the shard.")
    return record_id


def _text(spec: CorpusSpec, row: RawRecord) -> str:
    field = spec.fields.text
    text = field_value(row.record or {}, field)
    if text is None:
        raise _RejectedError(f"The text field '{field}' is missing or null.")
    if not isinstance(text, str):
        raise _RejectedError(f"The text field '{field}' is not a string.")
    if not text.strip():
        raise _RejectedError(f"The text field '{field}' is empty or only white space.")
    return text


def _source(spec: CorpusSpec, row: RawRecord) -> str | None:
    return scalar_text(field_value(row.record or {}, spec.fields.source)) if spec.fields.source else None


def _set_aside(spec: CorpusSpec, row: RawRecord, reason: str) -> Rejected:
    record_id = scalar_text(field_value(row.record, spec.fields.id)) if row.record and spec.fields.id else None
    return Rejected(row.location, record_id or None, reason, _excerpt(row))


def _excerpt(row: RawRecord) -> str:
    if row.raw:
        return row.raw[: 4 * EXCERPT_CHARACTERS].decode(errors="replace").strip()[:EXCERPT_CHARACTERS]
    return json.dumps(row.record, ensure_ascii=False, default=str)[:EXCERPT_CHARACTERS] if row.record else ""
