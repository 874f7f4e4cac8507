"""`headwater init`: a study file for a corpus and a checkpoint, checked as `headwater run` would before it starts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from assets.corpus.preflight import FIRST_RECORDS
from assets.corpus.sources import open_files
from assets.specs.spec import NAME_PATTERN
from compute.errors import BadInput

LIKELY = {
    "text": ("text", "content", "body", "document", "raw_content", "passage"),
    "id": ("id", "_id", "doc_id", "document_id", "key", "uuid", "url"),
    "source": ("source", "dataset", "subset", "origin", "domain", "collection"),
}
"""Fields that hold what a corpus needs, as public corpora name them; the first that is there is taken."""
PROMPT_WORDS = 12
MAX_TOKENS, MAX_NEW_TOKENS = 256, 64
"""Of a document and of a completion, where the model's context allows for them."""


def write_study(name: str, corpus: str, checkpoint: str, queries: str | None, target: Path) -> list[Path]:
    """Writes the study's file, and a file with one query where none is named; the files that were written.

    `checkpoint` is a directory, or owner/name@revision on the hub. Raises BadInput for what cannot be read, and where
    a file is there already; then nothing is left behind.
    """
    _refuse(name, target)
    base = target.absolute().parent
    records = _first_records(corpus)
    fields = _fields(records)
    written = []
    try:
        if queries is None:
            own = base / f"{target.stem}-queries.jsonl"
            if own.exists():
                raise BadInput(f"{own}: is there already; name it with --queries, or remove it")
            _write(own, _example_query(records, fields))
            written.append(own)
            queries = str(own)
        _write(target, _study(name, corpus, checkpoint, queries, fields, base))
        written.insert(0, target)
        _check(target)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return written


def _refuse(name: str, target: Path) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise BadInput(f"study {name!r}: a name is lower-case letters, digits, '-' and '_'; choose another")
    if target.suffix not in (".yaml", ".yml"):
        raise BadInput(f"{target}: end the file's name in .yaml")
    if target.exists():
        raise BadInput(f"{target}: is there already, and is not replaced; name another file (--to)")
    if not target.absolute().parent.is_dir():
        raise BadInput(f"{target.absolute().parent}: is no directory; make it, or name another file (--to)")


def _first_records(corpus: str) -> list[dict[str, Any]]:
    source = open_files("corpus", [os.path.abspath(os.path.expanduser(corpus))], os.getcwd())
    for file in source.files:
        rows = list(islice(source.reader.read(file), FIRST_RECORDS))
        if found := [row.record for row in rows if row.record]:
            return found
    raise BadInput(f"corpus: {corpus} holds no records; name files with one record per line or row")


def _fields(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Which field holds text, id and source, as far as their names tell."""
    names = {name for record in records for name, value in record.items() if value is not None}
    found = {role: next((name for name in likely if name in names), None) for role, likely in LIKELY.items()}
    if found["text"] is None:
        longest = max(
            (name for name in names if all(isinstance(each.get(name), str | None) for each in records)),
            key=lambda name: sum(len(each.get(name) or "") for each in records),
            default=None,
        )
        if longest is None:
            raise BadInput(f"corpus: no field of {', '.join(sorted(names)) or 'its records'} holds text")
        found["text"] = longest
    return {role: name for role, name in found.items() if name is not None}


def _example_query(records: Sequence[Mapping[str, Any]], fields: Mapping[str, str]) -> str:
    """The beginning of a document as prompt: the model goes on by itself."""
    text = next(str(each[fields["text"]]) for each in records if str(each.get(fields["text"]) or "").strip())
    prompt = " ".join(text.split()[:PROMPT_WORDS])
    return json.dumps({"id": "first", "prompt": prompt}, ensure_ascii=False) + "\n"


def _study(name: str, corpus: str, checkpoint: str, queries: str, fields: Mapping[str, str], base: Path) -> str:
    model, context = _model(checkpoint, base), _context(checkpoint)
    mapping = ", ".join(f"{role}: {json.dumps(field)}" for role, field in fields.items())
    return f"""# What each line means: docs/tutorial.md, and the page of the study file (make docs).
study: {name}
corpus:
  name: {name}
  path: {_relative(corpus, base)}
  fields: {{{mapping}}}
  shard_records: 5000
  max_tokens: {min(MAX_TOKENS, context)}
model:
  name: {name}
{model}
curvature:
  name: {name}
  sample_documents: 1000
queries:
  name: {name}
  path: {_relative(queries, base)}
options:
  methods: [ekfac, dot]  # kfac, cosine, trackstar and astra too, where they are asked for
  rank: 32
  top_k: 50
  max_new_tokens: {min(MAX_NEW_TOKENS, max(1, context // 4))}
"""


def _model(checkpoint: str, base: Path) -> str:
    if Path(checkpoint).expanduser().exists():
        return f"  path: {_relative(checkpoint, base)}"
    hub, at, revision = checkpoint.partition("@")
    if not at or hub.count("/") != 1:
        raise BadInput(
            f"checkpoint {checkpoint}: is no directory here; a checkpoint of the hub is written owner/name@revision"
        )
    return f"  hub: {json.dumps(hub)}\n  revision: {json.dumps(revision)}"


def _context(checkpoint: str) -> int:
    """Tokens of the model's context, as its configuration says."""
    from compute.checkpoint import context_length, model_skeleton

    path = Path(checkpoint).expanduser()
    hub, _, revision = checkpoint.partition("@")
    skeleton = model_skeleton(str(path)) if path.exists() else model_skeleton(hub, revision=revision or None)
    return context_length(skeleton) or MAX_TOKENS


def _relative(path: str, base: Path) -> str:
    """As a study file has it: from its own directory where it lies there, or else the whole path."""
    absolute = os.path.abspath(os.path.expanduser(path))
    inside = os.path.relpath(absolute, base)
    return json.dumps(absolute if inside.startswith("..") else inside, ensure_ascii=False)


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}); name another file") from error


def _check(target: Path) -> None:
    from orchestration.preflight import preflight
    from orchestration.studies import read_study

    preflight(read_study(target))
