"""The cheap checks of a corpus before any long work: files there and readable, fields as mapped, not empty."""

from __future__ import annotations

import os
from itertools import islice

from assets.corpus.parsing import field_value
from assets.corpus.reader import RawRecord
from assets.corpus.sources import Source, open_corpus
from assets.specs.corpus import CorpusSpec
from compute.errors import BadInput

FIRST_RECORDS = 100
NAMES_LISTED = 20


def preflight_corpus(spec: CorpusSpec, base: str | os.PathLike[str]) -> None:
    """Raise `BadInput` for what a look at each file's beginning (or footer) and at the first records can tell."""
    source = open_corpus(spec, base)
    for file in source.files:
        source.reader.probe(file)
    for file in source.files:
        rows = list(islice(source.reader.read(file), FIRST_RECORDS))
        if rows:
            names = source.reader.field_names(file)
            check_fields(spec.owner, file.path, rows, names, {f"fields.{k}": v for k, v in spec.fields.named.items()})
            return
    raise BadInput(f"{spec.owner}: {_files(source)} no records; add records, or correct path")


def check_fields(
    owner: str, path: str, rows: list[RawRecord], declared: list[str] | None, mapping: dict[str, str]
) -> None:
    """Each mapped field must be in the schema or in at least one of these rows; a single bad row is set aside later.

    `mapping` is from the option's name to the field: {"fields.text": "body"}.
    """
    records = [row.record for row in rows if row.record is not None]
    if not records:
        raise BadInput(
            f"{owner}: none of the first {len(rows)} rows of {path} is a record "
            f"({rows[0].location}: {rows[0].problem}); correct path or format"
        )
    names = declared or sorted({name for record in records for name in record})
    for option, field in mapping.items():
        if field not in names and all(field_value(record, field) is None for record in records):
            which = "the first record" if len(records) == 1 else f"any of the first {len(records)} records"
            raise BadInput(
                f"{owner}: field '{field}' ({option}) is not in {which} of {path}, which has: "
                f"{', '.join(names[:NAMES_LISTED]) or 'no fields'}; correct {option}"
            )


def _files(source: Source) -> str:
    count = len(source.files)
    return f"{source.files[0].path} holds" if count == 1 else f"all {count} files ({source.files[0].path}, …) hold"
