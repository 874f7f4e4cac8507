"""The command that tells what a study will cost: plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from compute.errors import BadInput
from orchestration.cli.root import app, exit_with, print_json


@app.command(
    epilog="Examples: headwater plan examples/demo/demo.yaml · "
    "headwater plan big.yaml --hardware h100 --documents 5000000 --tokens 512"
)
def plan(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study's declaration.")],
    hardware: Annotated[
        str | None, typer.Option(help="a100, h100, h200 or l40s; left out, or 'here': this machine, measured.")
    ] = None,
    documents: Annotated[int | None, typer.Option(min=1, help="Documents, instead of the corpus's own.")] = None,
    tokens: Annotated[int | None, typer.Option(min=2, help="Tokens of a document on average.")] = None,
    queries: Annotated[int | None, typer.Option(min=1, help="Queries, instead of the file's own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON, in full.")] = False,
) -> None:
    """Estimate what a study costs before anything runs: operations, time, memory and bytes in the lake, by stage.

    Where stages have run in this home, what they took stands next to the estimate.
    """
    from orchestration.home import Home
    from orchestration.plan.estimate import plan_study
    from orchestration.plan.page import plan_json, print_plan
    from orchestration.studies import read_study

    try:
        study = read_study(study_file.expanduser().absolute())
        sizes = {"documents": documents, "tokens": tokens, "queries": queries}
        planned = plan_study(study, Home.from_environment(), hardware=hardware, **sizes)
    except BadInput as error:
        exit_with(str(error))
    print_json(plan_json(planned)) if as_json else print_plan(planned)
