"""Top lists in SQL: told by the query's form, so that scores which cannot be in the list are not read.

DuckDB orders all rows that a table gives it. Where a query asks for nothing but the first rows of some scores by score,
the files' statistics say which of the sorted rows can be among them (`LiveRuns.end_groups`); the query itself is run as
it stands, over these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

Node = Mapping[str, Any]
VIEW, SCORE, QUERY = "influence", "score", "query_id"
KEYS = {"study", "method", QUERY}


@dataclass(frozen=True)
class TopScores:
    """`SELECT columns FROM influence WHERE query_id = '…' AND … ORDER BY score … LIMIT count`.

    `wanted` are the conditions, of study, method and query; `bottom` says whether the lowest scores come first.
    """

    wanted: Mapping[str, str]
    count: int
    bottom: bool


def top_scores(engine: duckdb.DuckDBPyConnection, query: str) -> TopScores | None:
    """None where the query is of any other form, such as one with an alias, a join, a group or another condition."""
    ((serialized,),) = engine.execute("SELECT json_serialize_sql(?)", [query]).fetchall()
    read = json.loads(serialized)
    if read.get("error") or len(read["statements"]) != 1:
        return None
    node = read["statements"][0]["node"]
    if node["type"] != "SELECT_NODE" or node["cte_map"]["map"] or node["aggregate_handling"] != "STANDARD_HANDLING":
        return None
    if any(node[part] for part in ("group_expressions", "group_sets", "having", "sample", "qualify")):
        return None
    source = node["from_table"]
    if source["type"] != "BASE_TABLE" or source["table_name"].lower() != VIEW or source["sample"]:
        return None
    if source["schema_name"] or source["catalog_name"] or source["column_name_alias"] or source["at_clause"]:
        return None
    if not all(map(_is_plain, node["select_list"])):
        return None
    order, wanted = _order(node["modifiers"]), _equalities(node["where_clause"])
    return TopScores(wanted, *order) if order and wanted and QUERY in wanted else None


def _is_plain(selected: Node) -> bool:
    """A column under its own name, or all of them: `score` then means the table's own in ORDER BY."""
    if selected["class"] == "STAR":
        return not any(selected.get(part) for part in ("replace_list", "rename_list", "expr", "columns"))
    return selected["class"] == "COLUMN_REF" and not selected["alias"]


def _order(modifiers: list[Node]) -> tuple[int, bool] | None:
    """(rows, whether from the lowest on) of ORDER BY score … LIMIT; ties may be ordered by whatever follows."""
    kinds = {each["type"]: each for each in modifiers}
    if len(modifiers) != 2 or kinds.keys() != {"ORDER_MODIFIER", "LIMIT_MODIFIER"}:
        return None
    first, limit = kinds["ORDER_MODIFIER"]["orders"][0], kinds["LIMIT_MODIFIER"]
    count, offset = _literal(limit["limit"], "INTEGER"), _literal(limit["offset"], "INTEGER", absent="0")
    if _column(first["expression"]) != SCORE or limit["limit_type"] != "ROW_COUNT" or count is None or offset is None:
        return None
    return int(count) + int(offset), first["type"] != "DESCENDING"


def _equalities(where: Node | None) -> dict[str, str] | None:
    """Column -> value, of conditions that say nothing else; None where they do."""
    if where is None:
        return None
    if where["type"] == "CONJUNCTION_AND":
        parts = [_equalities(each) for each in where["children"]]
        if any(part is None for part in parts):
            return None
        merged = {name: value for part in parts for name, value in part.items()}
        return merged if len(merged) == sum(map(len, parts)) else None
    if where["type"] != "COMPARE_EQUAL":
        return None
    name, value = _column(where["left"]), _literal(where["right"], "STRING")
    return {name: value} if name in KEYS and value is not None else None


def _column(expression: Node) -> str | None:
    return expression["column_names"][-1].lower() if expression["class"] == "COLUMN_REF" else None


def _literal(expression: Node | None, kind: str, *, absent: str | None = None) -> str | None:
    if expression is None:
        return absent
    literal = expression.get("literal") or {}
    return literal.get("text") if literal.get("kind") == kind else None
