"""The command line. Commands import what they need when they run, so that `--help` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from compute.errors import BadInput

app = typer.Typer(
    name="headwater",
    help="Traces what a language model writes back to the pretraining documents that taught it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def headwater() -> None:
    """Results are Delta tables under .headwater (or HEADWATER_HOME); messages go to standard error."""


@app.command(epilog="Example: headwater run examples/demo/demo.yaml")
def run(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study's declaration.")],
    recompute: Annotated[bool, typer.Option(help="Compute again what is already there for the same inputs.")] = False,
    refit: Annotated[
        bool, typer.Option(help="Draw the pinned samples of tokenizer, training and curvature again.")
    ] = False,
) -> None:
    """Materialize everything that a study needs, from corpus files to rankings.

    What is already there for the same inputs is kept, so a run that was interrupted goes on where it stopped.
    """
    from assets.study.preflight import preflight
    from orchestration.home import Home
    from orchestration.resources import resources_of
    from orchestration.run import StepFailed, run_study
    from orchestration.studies import open_study
    from orchestration.summary import print_summary

    try:
        home = Home.from_environment().prepare()
        study = open_study(study_file, home)
        preflight(study)
        with home.instance() as instance:
            resources = resources_of(home)
            run_study(study, instance, resources, recompute=recompute, refit=refit)
            print_summary(study, resources["lake"])
    except BadInput as error:
        _exit(str(error))
    except StepFailed as failed:
        _exit(failed.sentence if failed.is_users_mistake else f"step {failed.step} failed:\n{failed.sentence}")


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI on 127.0.0.1.")] = 3000,
) -> None:
    """Start the Dagster UI and its daemon on the same instance as `headwater run`; stop them with Ctrl-C."""
    from orchestration.home import Home
    from orchestration.servers import serve

    try:
        serve(Home.from_environment().prepare(), port=port)
    except BadInput as error:
        _exit(str(error))


def main() -> None:
    """Entry point of the `headwater` command."""
    app()


def _exit(sentence: str) -> NoReturn:
    print(f"headwater: {sentence}", file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
