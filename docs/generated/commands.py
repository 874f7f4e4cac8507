"""reference/commands.md: every command with its arguments, options and examples, as Typer knows them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from docs.generated.markdown import code, grid, sentence

OPENING = """# Commands

Data goes to standard output, messages to standard error. A mistake is one sentence, and the command ends with 1;
a command that is not written as it should be ends with 2. `headwater COMMAND --help` says the same as this page.

"""
WORDS = {int: "whole number", float: "number", Path: "path", datetime: "date and time"}


def commands_page() -> str:
    root = typer.main.get_command(_app())
    overview = [(f"[`{name}`](#{name})", _paragraphs(command.help)[0]) for name, command in root.commands.items()]
    parts = [OPENING, grid(("command", "does"), overview), "\n## headwater\n\n", _options(root)]
    return "".join([*parts, *(_section(name, command) for name, command in root.commands.items())])


def _app() -> typer.Typer:
    import orchestration.cli

    return orchestration.cli.app


def _section(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    usage = " ".join(["headwater", name, "[OPTIONS]", *(_metavar(each) for each in arguments)])
    told = "\n\n".join([f"\n## {name}", *_paragraphs(command.help), f"```text\n{usage}\n```", ""])
    return told + _arguments(arguments) + _options(command) + _examples(command)


def _arguments(arguments: list[Any]) -> str:
    rows = [(code(_metavar(each)), sentence(each.help or "")) for each in arguments]
    return grid(("argument", "meaning"), rows) + "\n" if rows else ""


def _options(command: Any) -> str:
    options = [each for each in command.params if each.param_type_name == "option"]
    rows = [(_names(each), _value(each), sentence(each.help or ""), _default(each)) for each in options]
    return grid(("option", "value", "meaning", "default"), rows) + "\n" if rows else ""


def _examples(command: Any) -> str:
    if not command.epilog:
        return ""
    examples = command.epilog.partition(":")[2].strip().split(" · ")
    return "```shell\n" + "\n".join(examples) + "\n```\n"


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(part.split()) for part in (text or "").split("\n\n") if part.strip()]


def _metavar(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required else f"[{name}]"


def _names(option: Any) -> str:
    return ", ".join(code(name) for name in [*option.opts, *option.secondary_opts])


def _value(option: Any) -> str:
    if option.is_flag:
        return ""
    return ", ".join(_kinds(option)) + (", may be given again" if option.multiple else "")


def _kinds(option: Any) -> Iterator[str]:
    annotation = option.type_descriptor.annotation
    if option.metavar:
        yield code(option.metavar)
    elif isinstance(annotation, type) and issubclass(annotation, Enum):
        yield " or ".join(code(choice.value) for choice in annotation)
    else:
        yield WORDS.get(annotation, "text")
        bounds = ((option.min, "at least"), (option.max, "at most"))
        yield from (f"{word} {bound}" for bound, word in bounds if bound is not None)


def _default(option: Any) -> str:
    value = getattr(option.default, "value", option.default)
    return "" if value in (None, False, "", ()) or callable(value) else code(value)
