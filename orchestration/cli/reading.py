"""Commands that read results: top, show, sql, export."""

from __future__ import annotations

import sys
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from compute.errors import BadInput
from orchestration.cli.root import app, exit_with, print_json

StudyName = Annotated[str, typer.Argument(help="Name of the study.")]
Method = Annotated[str | None, typer.Option(help="How documents are scored: ekfac unless another is named.")]
AsJson = Annotated[bool, typer.Option("--json", help="The same as JSON.")]


class Form(StrEnum):
    """Kinds of file."""

    parquet = "parquet"
    csv = "csv"


class Ranking(StrEnum):
    """By what documents are ranked: their scores, or these divided by the norms of the documents' gradients."""

    raw = "raw"
    normed = "normed"


@app.command(
    epilog="Examples: headwater top demo · headwater top demo slopes-03 · headwater top demo slopes-03 --bottom"
)
def top(
    study: StudyName,
    query: Annotated[str | None, typer.Argument(help="Id of a query; left out: the study's queries.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many documents.")] = 10,
    ranking: Annotated[Ranking, typer.Option(help="By the score, or by the score per norm.")] = Ranking.normed,
    bottom: Annotated[bool, typer.Option("--bottom", help="The documents that speak against the completion.")] = False,
    method: Method = None,
    as_json: AsJson = False,
) -> None:
    """List the documents that drive a query, with exact scores; or the study's queries."""
    from orchestration.results import Results, pages, printing, ranked

    try:
        results = Results.open()
        if query is None:
            queries = ranked.study_queries(results, study)
            printing.print_json(queries) if as_json else pages.print_queries(study, queries)
            return
        asked = ranked.query_known(results, study, query)
        end = "bottom" if bottom else "top"
        rows = ranked.ranked_documents(results, study, query, method=method, ranking=ranking, end=end, count=count)
        if ranking is Ranking.raw and len(rows) < count:
            rows = ranked.with_unranked(results, study, rows, query=query, end=end, count=count)
    except BadInput as error:
        exit_with(str(error))
    if as_json:
        printing.print_json(rows.drop("tokens", "token_ids", "token_scores", "modules", "module_scores", "fingerprint"))
    else:
        pages.print_ranked(asked, rows)
    if len(rows) < count and ranking is Ranking.normed:
        print(
            f"{len(rows)} documents are ranked with exact scores; --ranking raw and headwater sql list more",
            file=sys.stderr,
        )


@app.command(
    epilog="Examples: headwater show demo 'facts-0012#0' · headwater show demo 'facts-0012#0' --query fact-river-fenla"
)
def show(
    study: StudyName,
    document: Annotated[str, typer.Argument(help="Id of the document.")],
    query: Annotated[str | None, typer.Option(help="Colour its tokens by their share of this query's score.")] = None,
    method: Method = None,
    as_json: AsJson = False,
) -> None:
    """Show a document with the queries that it drives; with --query, which tokens and modules carry the influence."""
    from orchestration.results import Results, pages, printing, ranked

    try:
        results = Results.open()
        found = ranked.document_row(results, study, document)
        rows = ranked.drives(results, study, document)
        asked = ranked.query_known(results, study, query) if query else None
        if asked:
            rows = ranked.of_query(rows, study, document, query, method)
    except BadInput as error:
        exit_with(str(error))
    if as_json:
        print_json(ranked.plain_document(found) | {"ranked": printing.plain_rows(rows.drop("text", "fingerprint"))})
    else:
        pages.print_document(found, rows, asked)


@app.command(
    epilog='Examples: headwater sql · headwater sql "SELECT method, count(*) FROM influence GROUP BY method" · '
    'headwater sql --out top.parquet "SELECT * FROM rankings WHERE rank <= 20"'
)
def sql(
    query: Annotated[str | None, typer.Argument(help="One SELECT; - reads it from standard input.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Rows as a list of JSON objects.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Rows as CSV.")] = False,
    out: Annotated[Path | None, typer.Option(help="A file instead: .parquet, .csv or .jsonl.")] = None,
    at: Annotated[datetime | None, typer.Option(help="Read the tables as they were then (local time).")] = None,
    version: Annotated[
        list[str] | None, typer.Option(metavar="TABLE=N", help="Version of a table, as study/demo/rankings=3.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="At most so many rows.")] = 100_000,
    seconds: Annotated[float, typer.Option(min=0.01, help="At most so long.")] = 60.0,
    memory: Annotated[float, typer.Option(min=0.05, help="At most so many GiB of memory.")] = 2.0,
) -> None:
    """Ask the tables of all studies a question in DuckDB's SQL; without one, list the tables.

    A query reads the lake's tables and nothing else, and changes nothing.
    """
    from orchestration.results import Results, printing
    from orchestration.results.sql import Limits
    from orchestration.results.views import Moment, named_versions

    try:
        results = Results.open()
        if query is None:
            print_json(printing.tables_json(results)) if as_json else printing.print_tables(results)
            return
        if out:
            printing.check_name(out)
        moment = Moment(at.astimezone() if at else None, named_versions(version or ()))
        limits = Limits(seconds=seconds, memory_bytes=int(memory * 2**30), rows=rows)
        found = results.answer(sys.stdin.read() if query == "-" else query, moment, limits)
        if out or as_json or as_csv:
            found.refuse_cut()  # what is read by programs is whole or not there
        if out:
            printing.save_rows(found.frame, out)
        else:
            print_frame = printing.print_json if as_json else printing.print_csv if as_csv else printing.print_rows
            print_frame(found.frame)
    except BadInput as error:
        exit_with(str(error))
    cut = "the first " if found.is_cut else ""
    print(f"{cut}{len(found.frame):,} rows in {found.seconds:.2f} s{f' in {out}' if out else ''}", file=sys.stderr)


@app.command(
    epilog="Examples: headwater export demo --to results · headwater export demo --to scores --table influence"
)
def export(
    study: StudyName,
    to: Annotated[Path, typer.Option(help="A directory, new or empty.")],
    form: Annotated[Form, typer.Option("--as", help="Kind of file.")] = Form.parquet,
    table: Annotated[list[str] | None, typer.Option(help="Only this table; may be given again.")] = None,
) -> None:
    """Write the tables of a study that people read as files, and its report as a page."""
    from orchestration.results import Results
    from orchestration.results.export import export_study

    try:
        for path in export_study(Results.open(), study, to, form.value, table or []):
            print(path)
    except BadInput as error:
        exit_with(str(error))


@app.command(epilog="Example: headwater explore --port 8080")
def explore(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 8265,
) -> None:
    """Read the results in the browser: queries, ranked documents token by token, findings, search; Ctrl-C stops it."""
    from orchestration.explorer.serving import serve_explorer
    from orchestration.home import Home

    try:
        serve_explorer(Home.from_environment(), port)
    except BadInput as error:
        exit_with(str(error))
