"""The command line. Commands import what they need when they run, so that `--help` is quick."""

from orchestration.cli import planning, reading, scoring, studies  # noqa: F401 - they add their commands
from orchestration.cli.root import app


def main() -> None:
    """Entry point of the `headwater` command."""
    app(prog_name="headwater")  # whatever it was started as: completion is installed for this name
