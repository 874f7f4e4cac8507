"""The command that scores texts which are in no corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from compute.errors import BadInput
from orchestration.cli.reading import AsJson, Method, StudyName
from orchestration.cli.root import app, exit_with

SHOWN = ("text_number", "window", "query_id", "score", "normed_score", "tokens", "text")


@app.command(
    epilog="Examples: headwater score demo --text 'The river Lumsa flows through Torgo.' · "
    "headwater score demo --file texts.jsonl --query fact-river-torgo --json"
)
def score(
    study: StudyName,
    text: Annotated[list[str] | None, typer.Option(help="A text; may be given again.")] = None,
    file: Annotated[
        Path | None, typer.Option(help="Texts as a corpus has them: .jsonl or .parquet with a field text, or .txt.")
    ] = None,
    query: Annotated[str | None, typer.Option(help="Only for this query.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many queries per text.")] = 10,
    method: Method = None,
    as_json: AsJson = False,
) -> None:
    """Score texts of your own for a study's queries, as if they stood in its corpus: the queries that each drives most.

    A text that is longer than a document is cut into windows. Nothing is written.
    """
    from orchestration.results import Results, printing, ranked

    try:
        if not text and not file:
            raise BadInput("there are no texts; give --text or --file")
        results = Results.open()
        scorer = results.scorer(study)
        if query:
            ranked.query_known(results, study, query)
        chosen = ranked.chosen_method(study, sorted(scorer.opened.study.spec.options.methods), method)
        scores = scorer.score_texts([*(text or ()), *(_texts_in(file) if file else ())]).collect()
    except BadInput as error:
        exit_with(str(error))
    rows = scores.filter(method=chosen, **({"query_id": query} if query else {}))
    rows = rows.sort("text_number", "window", "score", descending=[False, False, True])
    rows = rows.group_by("text_number", "window", maintain_order=True).head(count)
    printing.print_json(rows) if as_json else printing.print_rows(rows.select(SHOWN))


def _texts_in(path: Path) -> Iterator[str]:
    """Raises BadInput for a file that cannot be read, and naming the row that holds no text."""
    from assets.corpus.sources import open_files

    source = open_files("--file", [str(path)], Path.cwd(), allowed=("jsonl", "parquet", "text"))
    for file in source.files:
        for row in source.reader.read(file):
            text = (row.record or {}).get("text")
            if not isinstance(text, str):
                reason = row.problem or "The field 'text' is missing, or no string."
                raise BadInput(f"--file: {row.location} cannot be scored: {reason.rstrip('.')}; mend or delete it")
            yield text
