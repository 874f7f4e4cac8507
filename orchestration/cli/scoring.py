"""The commands that score what is in no corpus and no set: one's own texts and queries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from compute.errors import BadInput
from orchestration.cli.reading import AsJson, Method, Ranking, StudyName
from orchestration.cli.root import app, exit_with, print_json

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


@app.command(
    epilog=r"Examples: headwater ask demo --prompt 'Question: Which river flows by Torgo?\nAnswer:' "
    r"--completion ' Lumsa' · headwater ask demo "
    r"--prompt 'Calculate (7 + 5) * 2. Think step-by-step.' --ranking raw --json"
)
def ask(
    study: StudyName,
    prompt: Annotated[str, typer.Option(help=r"What the model is given; \n is a new line.")],
    completion: Annotated[
        str | None, typer.Option(help="What is explained, with its leading space; left out: what the model writes.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many documents.")] = 10,
    ranking: Annotated[Ranking, typer.Option(help="By the score, or by the score per norm.")] = Ranking.normed,
    candidates: Annotated[
        int | None, typer.Option(min=1, help="Documents of the index to score exactly; left out: the study's option.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="By a pass over the whole corpus, without the index.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask for the documents that drive a completion which is not in the study's set of queries.

    The study's index of documents (options.index) proposes some, and these are scored exactly by EK-FAC. Nothing is
    written.
    """
    from orchestration.results import Results, pages, printing

    try:
        if exact and candidates:
            raise BadInput("--candidates are of the index, which --exact does without; leave one of them out")
        scorer = Results.open().scorer(study)
        if not exact:
            scorer.refuse_without_index()
        asked = scorer.ask(*map(_with_lines, (prompt, completion)), methods="ekfac")
        chosen = {"ranking": ranking.value, "count": count}
        found = scorer.score_query(asked, **chosen) if exact else scorer.find(asked, candidates=candidates, **chosen)
        rows = found.collect()
    except BadInput as error:
        exit_with(str(error))
    if as_json:
        kept = rows.drop("text_number", "tokens", "token_scores", "modules", "module_scores")
        query = {name: getattr(asked, name) for name in ("prompt", "completion", "generated", "nats", "loss")}
        print_json(query | {"documents": printing.plain_rows(kept)})
    else:
        pages.print_found(asked, rows, ranking.value)


def _with_lines(text: str | None) -> str | None:
    """A shell's arguments hold no new lines without effort."""
    return text.replace("\\n", "\n") if text else text


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
