"""reference/tables*.md: every table of the lake, from the declarations that its rows are checked against."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from assets.specs.study import Study, StudySpec
from docs.generated.markdown import code, grid, sentence, text

if TYPE_CHECKING:
    from assets.lake.tables import Table

OPENING = """# Tables

Every asset is a Delta table of the same path under `lake/`. `headwater sql` joins the tables of one name across
studies, corpora and models into one view; its first column says whose each row is. All columns are required unless
they are said to be nullable.

"""
GROUPS = {
    "corpus": ("Corpus", ("corpus",)),
    "model": ("Model and queries", ("model", "queries")),
    "curvature": ("Curvature", ("curvature",)),
    "study": ("Study", ("study",)),
    "findings": ("Findings", ("findings",)),
}
NAMES = {"c0rpus": "<corpus>", "m0del": "<model>", "f1t": "<fit>", "s3t": "<set>", "st0dy": "<study>"}
"""What stands for the names that a study gives, and what the pages write for them."""
FULL: dict[str, Any] = {
    "study": "st0dy",
    "corpus": {"name": "c0rpus", "path": "corpus.jsonl", "tokenizer": {"train": {}}},
    "model": {"name": "m0del", "train": {}},
    "curvature": {"name": "f1t"},
    "queries": {"name": "s3t", "path": "queries.jsonl"},
    "options": {"methods": ["ekfac", "dot", "astra"], "ablation": {}, "index": {}},
    "findings": {
        "bm25": True,
        "compare": ["other"],
        "document_rules": "rules.yaml",
        "judge": {"name": "judge", "endpoint": "http://127.0.0.1/v1", "model": "judge"},
    },
}
"""A study with everything that brings a table of its own."""


@dataclass(frozen=True)
class Described:
    """A table with what its asset says about it, and the assets that it is made from."""

    table: Table
    path: str
    family: str
    story: str
    made_from: tuple[str, ...]


@cache
def described_tables() -> tuple[Described, ...]:
    from assets.findings.graph import findings_tables
    from orchestration.graph import study_assets, study_tables

    study, other = _study(), _study(study="other", findings={})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Dagster's, about what is in beta
        specs = {spec.key: spec for asset in study_assets(study, [other]) for spec in asset.specs}
    findings = {table.path for table in findings_tables(study)}
    return tuple(
        Described(
            table,
            _named(table.path),
            "findings" if table.path in findings else table.key[0],
            text(_named(_story(table, specs[table.asset_key].description))),
            tuple(_named("/".join(dep.asset_key.path)) for dep in specs[table.asset_key].deps),
        )
        for table in study_tables(study)
    )


def table_pages() -> Iterator[tuple[str, str]]:
    """The list of all tables, and a page for each group of them."""
    rows, pages = [], {name: [] for name in GROUPS}
    for each in described_tables():
        page = _page_of(each)
        pages[page].append(each)
        rows.append((f"[`{each.path}`](tables-{page}.md#{_anchor(each.path)})", sentence(each.table.grain)))
    yield "reference/tables.md", OPENING + grid(("table", "rows"), rows)
    for name, (title, _) in GROUPS.items():
        yield f"reference/tables-{name}.md", f"# Tables: {title.lower()}\n\n" + "\n".join(map(_section, pages[name]))


def _section(each: Described) -> str:
    columns = [
        (code(column.name), _type(column.type), text(column.description) + (" *Nullable.*" if column.nullable else ""))
        for column in each.table.columns
    ]
    return f"## {text(each.path)} {{ #{_anchor(each.path)} }}\n\n{_about(each)}\n\n" + grid(
        ("column", "type", "meaning"), columns
    )


def _about(each: Described) -> str:
    parts = [f"**{sentence(each.table.grain)}** {each.story}"]
    if each.table.partition_by:
        parts.append(f"Partitioned by {', '.join(map(code, each.table.partition_by))}.")
    if each.table.sort_by:
        parts.append(f"Rows are sorted by {', '.join(map(code, each.table.sort_by))}.")
    if links := ", ".join(_link(path) for path in each.made_from):
        parts.append(f"Made from {links}.")
    return " ".join(parts)


def _link(path: str) -> str:
    known = {each.path: each for each in described_tables()}
    if path not in known:
        return code(path)
    return f"[`{path}`](tables-{_page_of(known[path])}.md#{_anchor(path)})"


def _page_of(each: Described) -> str:
    return next(name for name, (_, families) in GROUPS.items() if each.family in families)


def _anchor(path: str) -> str:
    family, _, name = path.split("/")
    return f"{family}-{name}".replace("_", "-")


def _study(**changes: Any) -> Study:
    return Study(StudySpec.model_validate(FULL | changes), ".")


def _story(table: Table, description: str | None) -> str:
    """What the asset says beyond the grain, which stands before it."""
    return (description or "")[len(table.grain) + 1 :].strip()


def _named(words: str) -> str:
    for stand_in, name in NAMES.items():
        words = words.replace(stand_in, name)
    return words


def _type(kind: pa.DataType) -> str:
    return f"list of {_type(kind.value_type)}" if pa.types.is_list(kind) else str(kind).replace("[us, tz=UTC]", "")
