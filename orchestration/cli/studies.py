"""Commands that make results, and look after them: run, ui, studies, lineage, delete."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compute.errors import BadInput
from orchestration.cli.root import app, exit_with, print_json

if TYPE_CHECKING:
    from orchestration.home import Home


@app.command(epilog="Example: headwater init --study mine --corpus 'data/*.jsonl' --checkpoint models/mine")
def init(
    study: Annotated[str | None, typer.Option(help="The study's name.")] = None,
    corpus: Annotated[str | None, typer.Option(help="File, directory or pattern of the corpus.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Directory of a Hugging Face checkpoint, or owner/name@revision on the hub.")
    ] = None,
    queries: Annotated[
        str | None, typer.Option(help="File of queries; left out: one is written, with a first prompt.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="The file to write; STUDY.yaml unless named.")] = None,
) -> None:
    """Write a study file for a corpus and a checkpoint, and check it. What is not given is asked for."""
    from orchestration.scaffold import write_study

    asked = {"study": study, "corpus": corpus, "checkpoint": checkpoint}
    if missing := [name for name, value in asked.items() if not value]:
        if not sys.stdin.isatty():
            exit_with(f"give {' and '.join(f'--{name}' for name in missing)}")
        for name in missing:
            asked[name] = typer.prompt(name)
    target = to or Path(f"{asked['study']}.yaml")
    try:
        for path in write_study(asked["study"], asked["corpus"], asked["checkpoint"], queries, target):
            print(path)
    except BadInput as error:
        exit_with(str(error))
    print(f"headwater run {target} runs it", file=sys.stderr)


@app.command(epilog="Example: headwater run examples/demo/demo.yaml")
def run(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study's declaration.")],
    recompute: Annotated[bool, typer.Option(help="Compute again what is already there for the same inputs.")] = False,
    refit: Annotated[
        bool, typer.Option(help="Draw the pinned samples of tokenizer, training, curvature and ablation again.")
    ] = False,
) -> None:
    """Materialize everything that a study needs, from corpus files to rankings.

    What is already there for the same inputs is kept, so a run that was interrupted goes on where it stopped.
    """
    from orchestration.home import Home
    from orchestration.preflight import preflight
    from orchestration.resources import resources_of
    from orchestration.run import INTERRUPTED, STOPPED, StepFailed, failed_checks, run_study
    from orchestration.studies import compared_studies, open_study
    from orchestration.summary import print_summary

    try:
        home = Home.from_environment().prepare()
        study = open_study(study_file, home, preflight)
        others = compared_studies(study, home.studies)
        with home.instance() as instance:
            resources = resources_of(home)
            ran = run_study(study, instance, resources, recompute=recompute, refit=refit, others=others)
            print_summary(study, resources["lake"], failed_checks(instance, ran))
    except BadInput as error:
        exit_with(str(error))
    except StepFailed as failed:
        exit_with(str(failed))
    except INTERRUPTED:
        exit_with(STOPPED, 130)


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Dagster's UI on 127.0.0.1.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow's UI on 127.0.0.1.")] = 5000,
) -> None:
    """Start Dagster's UI with its daemon, and MLflow's UI, on what `headwater run` works on; Ctrl-C stops them.

    Where HEADWATER_TRACKING_URI names a server, its UI is the one to look at, and none is started here.
    """
    from orchestration.home import Home
    from orchestration.servers import ServerEnded, serve

    try:
        serve(Home.from_environment().prepare(), port=port, mlflow_port=mlflow_port)
    except (BadInput, ServerEnded) as error:
        exit_with(str(error))


@app.command(epilog="Example: headwater lineage demo arithmetic-00 'arithmetic-0000#0'")
def lineage(
    study: Annotated[str, typer.Argument(help="Name of the study.")],
    query: Annotated[str, typer.Argument(help="Id of the query.")],
    document: Annotated[str, typer.Argument(help="Id of the document, as it stands in rankings and influence.")],
    method: Annotated[str, typer.Option(help="How it was scored.")] = "ekfac",
    as_json: Annotated[bool, typer.Option("--json", help="Everything in full, as JSON.")] = False,
) -> None:
    """Show what one influence row came from: versions, runs, code, model, curvature fit and source file."""
    from orchestration.home import Home
    from orchestration.lineage import trace
    from orchestration.lineage_facts import add_facts
    from orchestration.lineage_page import lineage_json, print_lineage
    from orchestration.resources import resources_of
    from orchestration.run_pages import mlflow_pages
    from orchestration.studies import declared_models

    try:
        home = Home.from_environment()
        resources = resources_of(home)
        lake, dagster_ui = resources["lake"], resources["tracking"].dagster_ui
        found = trace(lake, study, query, document, method)
        add_facts(lake, found, declared_models(home.studies))
        pages = mlflow_pages(home, found)
    except BadInput as error:
        exit_with(str(error))
    if as_json:
        print_json(lineage_json(found, lake.place.root, dagster_ui, pages))
    else:
        print_lineage(found, lake.place.root, dagster_ui, pages)


@app.command(epilog="Example: headwater studies --json")
def studies(as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False) -> None:
    """List the registered studies: which are broken, not run, partly scored or complete."""
    from orchestration.home import Home
    from orchestration.resources import resources_of
    from orchestration.studies import load_studies
    from orchestration.study_states import print_states, state_json, study_states

    try:
        home = Home.from_environment()
        states = study_states(resources_of(home)["lake"], load_studies(home.studies))
    except BadInput as error:
        exit_with(str(error))
    if as_json:
        print_json([state_json(state) for state in states])
    else:
        print_states(states, home.studies)


@app.command(epilog="Example: headwater doctor --json")
def doctor(as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False) -> None:
    """Check the installation: packages, GPU, home, lake, tracking and study files.

    Ends with 1 where one of them fails.
    """
    from dataclasses import asdict

    from orchestration.doctor import BAD, examine
    from orchestration.home import Home

    try:
        found = list(examine(Home.from_environment()))
    except BadInput as error:
        exit_with(str(error))
    if as_json:
        print_json([asdict(each) for each in found])
    else:
        for each in found:
            print(f"{each.state:<5} {each.what:<9} {each.said}")
    if any(each.state == BAD for each in found):
        raise SystemExit(1)


@app.command(epilog="Example: headwater delete demo")
def delete(
    study: Annotated[str | None, typer.Argument(help="Name of a study; left out: what no study refers to.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking, after showing what.")] = False,
) -> None:
    """Remove a study with all that it alone refers to, or what no study refers to any more. Shows first what that is.

    MLflow's runs and Dagster's run history stay.
    """
    from orchestration.home import Home
    from orchestration.removal import plan_removal, remove
    from orchestration.removal_page import confirmed, print_removal, print_removed
    from orchestration.resources import resources_of

    try:
        home = Home.from_environment()
        lake = resources_of(home)["lake"]
        with _existing(home).instance() as instance:
            planned = plan_removal(home, lake, instance, study)
            print_removal(planned)
            if planned.is_empty:
                return
            if not yes and not confirmed(planned):
                exit_with("nothing was removed")
            if plan_removal(home, lake, instance, study).parts != planned.parts:
                exit_with("nothing was removed, since studies or tables changed meanwhile; look again")
            remove(home, lake, instance, planned, on_part=lambda part: print(f"removed {part}", file=sys.stderr))
            print_removed(planned)
    except BadInput as error:
        exit_with(str(error))


def _existing(home: Home) -> Home:
    """Commands that only look, or remove, do not make a new installation by the way."""
    if not (home.dagster / "dagster.yaml").exists():
        raise BadInput(
            f"{home.root}: nothing has been run here; name the directory that results are in (HEADWATER_HOME)"
        )
    return home
