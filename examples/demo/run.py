"""`make demo`: generate the demo's corpus and queries, run its study, and print what the tables say.

The corpus goes to `<home>/demo`, the tables to the lake, where `headwater run` and the Dagster UI find them too.
"""

from __future__ import annotations

import sys
import time

from rich.console import Console

from compute.errors import BadInput
from examples.demo.generate import DemoSettings, build, write
from examples.demo.report import print_report
from orchestration.home import Home
from orchestration.preflight import preflight
from orchestration.resources import resources_of
from orchestration.run import INTERRUPTED, STOPPED, StepFailed, failed_checks, run_study
from orchestration.studies import open_study
from orchestration.summary import print_summary

PAGE_WIDTH = 116  # where the output is no terminal, which would tell its own


def main() -> int:
    """Exit status: 0, or 1 after a sentence that says what went wrong."""
    started = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else PAGE_WIDTH)
    try:
        home = Home.from_environment().prepare()
        directory = home.root / "demo"
        console.print(f"[bold]Generating[/] the demo's corpus and queries in {directory}", highlight=False)
        demo = build(DemoSettings())
        write(demo, directory)
        study = open_study(directory / "demo.yaml", home, preflight)
        with home.instance() as instance:
            resources = resources_of(home)
            ran = run_study(study, instance, resources)
            print_summary(study, resources["lake"], failed_checks(instance, ran))
        print_report(study, resources["lake"], demo, console)
    except (BadInput, StepFailed) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except INTERRUPTED:
        print(f"demo: {STOPPED}", file=sys.stderr)
        return 130
    console.print(f"\nThe demo took {time.monotonic() - started:.0f} seconds.", highlight=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
