"""Fenced blocks of the pages that people read, and what they print."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "examples/studies/README.md"]
FENCE = re.compile(r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[-+]?\d[\d,.]*(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, the file's name that it stands for, its text, and its page and line."""

    language: str
    title: str | None
    text: str
    place: str


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    """The blocks of a page in order; of the named languages, or all."""
    content = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(content):
        line = content.count("\n", 0, found.start()) + 1
        if not languages or found["language"] in languages:
            place = f"{page.relative_to(ROOT)}:{line}"
            yield Block(found["language"], found["title"], found["text"], place)


def of(*languages: str) -> list[Block]:
    """The blocks of all pages."""
    return [block for page in PAGES for block in blocks(page, *languages)]


def commands(program: str) -> list[tuple[str, list[str]]]:
    """Every command line of a program that a page shows, in blocks and in running text: its place, and its words."""
    lines = [(block.place, line) for block in of("shell", "") for line in block.text.splitlines()]
    for page in PAGES:
        lines += [(page.name, words) for words in re.findall(rf"`({program} [^`]+)`", page.read_text(encoding="utf-8"))]
    return [(place, words) for place, line in lines if (words := _words(line))[:1] == [program]]


def _words(line: str) -> list[str]:
    """Words of a command line, without its prompt, its comment and the directory of the program."""
    try:
        words = shlex.split(line.removeprefix("$ "), comments=True)
    except ValueError:
        return []
    return [words[0].rpartition("/")[2], *words[1:]] if words else []


def missing_lines(expected: str, printed: str) -> list[str]:
    """Lines of the page that a command did not print: numbers and white space may be others."""
    there = {_shape(line) for line in printed.splitlines()}
    return [line for line in expected.splitlines() if line.strip() and _shape(line) not in there]


def _shape(line: str) -> str:
    return " ".join(NUMBER.sub("#", line.rstrip(" ,")).split())
