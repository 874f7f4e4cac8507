"""A study's tables as the report reads them, filled with made-up findings; nothing was trained or scored for them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from assets.corpus.tokenizer import tokenizer_table
from assets.findings.claim_rules import is_specific, verdict_of
from assets.findings.claims import claims_table
from assets.findings.evidence import evidence_table
from assets.lake.columns import METHOD, QUERY_ID, STAMP
from assets.lake.lake import Lake
from assets.lake.tables import Column, Table
from assets.model.checkpoint import checkpoint_table
from assets.specs.study import Study, StudySpec
from assets.study.completions import completions_table
from assets.study.coverage import coverage_table
from assets.study.rankings import rankings_table

HOSTILE = "</style></title><script>alert(1)</script><img src=//evil.example/x onerror=alert(2)>\"'&"
ODD = "\u202eright to left\u202c \x00 \ud83d \u200b z\u0301\u0301\u0301 名前 שלום"
METHODS = ("bm25", "dot", "ekfac")
TASKS = {"reasoning": ("arithmetic", "slope", "equation"), "factual": ("capital", "river", "founder")}
GROUPS = ("factual", "reasoning", "factual control", "reasoning control")
ANALYSES = ("answers", "kinds", "sources", "correlation", "magnitude", "power_law")
STATISTICS = {
    "answers": ["answer in the top 10", "answer in the top 50", "answer in the top 500"],
    "kinds": ["share of procedural documents, top 100"],
    "sources": [f"representation of {source}, top {cut}" for source in ("code", "books", "web") for cut in (50, 500)],
    "correlation": ["mean correlation"],
    "magnitude": [f"positive influence per nat, top {cut} %" for cut in (0.1, 1, 10)] + ["positive coverage, top 1 %"],
    "power_law": ["slope", "alpha"],
}
VALUES = {"answers": 0.5, "kinds": 0.4, "sources": 2.0, "correlation": 0.2, "magnitude": 0.03, "power_law": -0.4}
STORY = (
    "The river Dunmore rises in the hills north of Caldwell and runs past the old mill . To find the slope between "
    "( 2 , 3 ) and ( 6 , 11 ) , subtract the first y from the second , 11 - 3 = 8 , and the first x from the second , "
    "6 - 2 = 4 , and divide : 8 / 4 = 2 .\n\nThe answer is 2 . def slope ( a , b ) : return ( b [ 1 ] - a [ 1 ] ) / "
    "( b [ 0 ] - a [ 0 ] )"
).split(" ")


def study(name: str = "example") -> Study:
    return Study(
        StudySpec.model_validate(
            {
                "study": name,
                "corpus": {"name": "invented-world", "path": ["corpus/*.jsonl"], "max_tokens": 512},
                "model": {"name": "small-llama", "path": "model"},
                "curvature": {"name": "fit", "sample_documents": 1000},
                "queries": {"name": "set", "path": "queries.jsonl"},
                "options": {"rank": 32, "damping": 0.1},
            }
        ),
        ".",
    )


def finding_table(of: Study, analysis: str) -> Table:
    """An analysis's table, as far as the report knows it: rows that are handed to a drawing."""
    return Table(
        key=("study", of.name, analysis),
        grain="one row per method and query",
        columns=(METHOD, QUERY_ID, Column("value", pa.float64(), "What was found."), STAMP),
    )


def findings(of: Study) -> list[Table]:
    return [*(finding_table(of, analysis) for analysis in ANALYSES), claims_table(of.name)]


def queries(per_group: int, prefix: str = "", task: str | None = "") -> list[dict[str, Any]]:
    """Some of each kind, with their controls; half of the facts are answered wrongly. `task` replaces their tasks."""
    rows = []
    for group in GROUPS:
        kind, is_control = group.split()[0], group.endswith("control")
        for number in range(per_group):
            own = TASKS[kind][number % 3]
            rows.append(
                {
                    "query_id": f"{prefix}{group.replace(' ', '-')}-{number:03d}",
                    "prompt": f"{prefix}Which number does {own} number {number} give? Think step by step.\n",
                    "completion": f"{prefix}It is 42, since 6 times 7 is 42.",
                    "nats": 3.5 + number,
                    "task": own if task == "" else task,
                    "kind": "control" if is_control else kind,
                    "answer": "42",
                    "is_right": [True, False, None][min(number % 3, 1 if kind == "factual" else 0)],
                }
            )
    return rows


def fill(
    lake: Lake, of: Study, *, per_group: int = 6, hostile: str = "", tokens: int = 120, task: str | None = ""
) -> None:
    """Every table that the report reads. `hostile` is put before every text and name that comes from people."""
    asked = queries(per_group, hostile, task)
    put(lake, completions_table(of.name), _completions(asked))
    put(lake, rankings_table(of.name), list(_rankings(asked, hostile, tokens)))
    put(lake, coverage_table(of.name), _coverage())
    put(lake, claims_table(of.name), list(_claims(hostile)))
    for analysis in ANALYSES:
        rows = [
            {"method": method, "query_id": row["query_id"], "value": VALUES[analysis]}
            for method in METHODS
            for row in asked
        ]
        put(lake, finding_table(of, analysis), rows)
        put(lake, evidence_table(of.name), list(evidence(analysis, hostile)), where={"analysis": analysis})
    block = {"file": "model.safetensors", "block": 0, "content": None, "location": "model", "bytes": 1, "sha256": "0"}
    put(lake, checkpoint_table(of.spec.model.name), [block])
    file = {"file": "tokenizer.json", "content": b"{}", "tokenizer_fingerprint": "ab" * 8}
    put(lake, tokenizer_table(of.spec.corpus.name), [file])


def put(lake: Lake, table: Table, rows: list[dict[str, Any]], where: dict[str, str] | None = None) -> None:
    stamped = [row | {"fingerprint": "0123456789abcdef"} for row in rows]
    inputs = json.dumps({"corpus/invented-world/documents": 3})
    data = pa.Table.from_pylist(stamped, schema=table.schema)
    lake.overwrite(table, data, where=where, commit={"code_version": "1", "inputs": inputs})


def evidence(analysis: str, hostile: str = "") -> Iterator[dict[str, Any]]:
    """Estimates of every group, a task's, and comparisons; controls lie low. Some have no p-value or interval."""
    nan = math.nan
    for statistic in STATISTICS[analysis]:
        statistic = statistic.replace("representation of code", f"representation of code{hostile}")
        for at, method in enumerate(METHODS):
            row = {"analysis": analysis, "method": method, "statistic": statistic, "contrast": None}
            value = VALUES[analysis] * (1 + 0.2 * at)
            for group in (*GROUPS, f"reasoning: slope{hostile}", "factual, right", "factual, wrong"):
                estimate = value * (0.3 if "control" in group else 1.4 if group.startswith("reasoning") else 1)
                low, high = sorted((0.8 * estimate, 1.3 * estimate))
                if group == "reasoning control":
                    low = high = nan
                numbers = {"estimate": estimate, "low": low, "high": high, "p_value": nan, "p_adjusted": nan}
                numbers |= {"smallest_p": nan}
                chance = 0.1 if analysis == "answers" else nan
                yield row | numbers | {"group": group, "queries": 20, "chance": chance}
            for one, other in (
                ("factual", "reasoning"),
                ("factual", "factual control"),
                ("reasoning", "reasoning control"),
            ):
                numbers = {"estimate": 0.4 * value, "low": 0.2 * value, "high": 0.7 * value, "p_value": 1e-4}
                other = {"group": one, "contrast": other, "p_adjusted": 4e-4 if at else 0.034, "smallest_p": 1e-4}
                yield row | numbers | other | {"queries": 40, "chance": nan}


def _claims(hostile: str) -> Iterator[dict[str, Any]]:
    """Of the paper's effects: some hold, in controls too or not, some do not, and one has no controls."""
    answer, kinds = "Documents with the answer of factual queries are in the", "share of procedural documents, top 100"
    shares = [(f"top {top}", f"{answer} top {top} more often than by chance.", top > 10) for top in (10, 500)]
    decided = [
        *(("answers", f"answer in the {top}", None, sentence, holds, False) for top, sentence, holds in shares),
        ("kinds", kinds, None, "Procedural documents are over-represented.", True, False),
        ("correlation", "mean correlation", "factual", "Queries of one task draw on the same documents.", True, True),
        ("power_law", "slope", "factual", "Influence falls off more steeply for factual queries.", False, False),
    ]
    for number in range(6):
        sentence = f"Source {number} is over-represented."
        decided.append(("sources", f"representation of source {number}, top 50", None, sentence, number > 4, None))
    for at, method in enumerate(METHODS):
        for analysis, statistic, contrast, sentence, holds, in_controls in decided:
            numbers = {"estimate": 0.48, "low": 0.31, "high": 0.63, "control_estimate": 0.08}
            holds = holds and (at > 0 or analysis == "answers")
            has_controls, more = analysis != "sources", not in_controls if analysis != "kinds" else None
            verdict = verdict_of(holds, has_controls, in_controls, more)
            yield numbers | {
                "claim": f"{hostile}{analysis}: {statistic}",
                "method": method,
                "sentence": hostile + sentence,
                "holds": holds,
                "in_controls": in_controls,
                "more_than_controls": more if has_controls else None,
                "task_specific": is_specific(verdict),
                "verdict": verdict,
                "analysis": analysis,
                "statistic": statistic,
                "group": "reasoning",
                "contrast": contrast,
                "chance": math.nan if contrast else 0.1,
                "p_adjusted": 0.0004 if holds else 0.3,
                "control_p_adjusted": 0.2,
                "control_queries": 10 * has_controls,
                "queries": 40,
                "control_low": math.nan if analysis == "kinds" else 0.02,
                "control_high": 0.2,
            }


def _completions(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    more = {"generated": True, "prompt_token_ids": [1], "completion_token_ids": [2], "loss": 0.3}
    return [row | more | {"position": position} for position, row in enumerate(asked)]


def _coverage() -> list[dict[str, Any]]:
    counts = {"documents": 6000, "scores": 6000, "expected_scores": 6000, "norms": 6000}
    return [{"shard": f"{number:05d}", "state": "scored", **counts} for number in range(2)]


def _rankings(asked: list[dict[str, Any]], hostile: str, length: int) -> Iterator[dict[str, Any]]:
    draw = random.Random(0)
    for row in asked:
        for method in ("dot", "ekfac"):
            for ranking in ("normed", "raw"):
                for end in ("bottom", "top"):
                    for rank in range(1, 5):
                        yield _ranked(draw, row["query_id"], method, ranking, end, rank, hostile, length)


def _ranked(draw, query: str, method: str, ranking: str, end: str, rank: int, hostile: str, length: int) -> dict:
    start = draw.randrange(len(STORY))
    words = [hostile, *(f" {STORY[(start + at) % len(STORY)]}" for at in range(length - 1))]
    shares = [draw.gauss(0.0003, 0.001) * draw.random() ** 6 * 10 for _ in words]
    score = (1 if end == "top" else -1) * 0.8 / rank
    return {
        "method": method,
        "query_id": query,
        "ranking": ranking,
        "end": end,
        "rank": rank,
        "document_id": f"{hostile}wiki-{start:05d}#{rank}",
        "shard": "00000",
        "source": f"{hostile}{draw.choice(['encyclopedia', 'code', 'worked solutions'])}",
        "score": score,
        "score_per_nat": score / 3,
        "norm": 1.5,
        "normed_score": score / 1.5,
        "exact_score": 1.02 * score + draw.gauss(0, 0.02),
        "text": "".join(words),
        "token_ids": list(range(len(words))),
        "tokens": words,
        "token_scores": shares,
        "modules": ["mlp"],
        "module_scores": [score],
        "concentration": 0.7 if rank == 3 else 0.2,
        "likely_spurious": rank == 3,
    }
