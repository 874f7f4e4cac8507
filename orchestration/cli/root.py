"""The command line's root, and what all commands share: messages go to standard error, a mistake is one sentence."""

from __future__ import annotations

import json
import sys
from typing import NoReturn

import typer

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


def print_json(content: object) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False, default=str))


def exit_with(sentence: str, status: int = 1) -> NoReturn:
    """Ends the command: standard error gets the sentence, the shell the status."""
    print(f"headwater: {sentence}", file=sys.stderr)
    raise SystemExit(status)
