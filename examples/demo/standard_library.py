"""Real code and real prose: functions and documentation of the Python standard library that the interpreter ships with.

They are read when the corpus is generated, so the repository holds no copy, and another Python version gives another
selection. Pieces are whole functions or paragraphs, short enough for a window or two of the demo's model.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import random
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc_data import topics

MODULES = """
    argparse ast base64 bisect calendar cmd code codecs collections colorsys configparser contextlib copy csv
    dataclasses datetime difflib dis doctest enum filecmp fileinput fnmatch fractions functools getopt
    gettext glob gzip hashlib heapq html inspect ipaddress json locale logging mailbox mimetypes numbers
    opcode optparse pathlib pdb pickle platform pprint profile queue quopri random reprlib sched selectors
    shelve shlex shutil smtplib socket statistics string stringprep subprocess symtable tarfile tempfile
    textwrap threading timeit tokenize trace traceback types typing unittest urllib uuid warnings wave
    weakref webbrowser zipfile
"""
LENGTHS = (120, 420)  # characters
UNWANTED = ("copyright", "author", "license", "@")  # pieces about persons and rights, and mail addresses


def code_documents(count: int, seed: int) -> list[dict]:
    """Functions, with their own indentation taken off."""
    return _choose(_functions(), count, f"{seed}:python_code")


def prose_documents(count: int, seed: int) -> list[dict]:
    """Paragraphs of docstrings and of the language reference."""
    return _choose(_paragraphs(), count, f"{seed}:python_prose")


def _choose(pieces: tuple[str, ...], count: int, seed: str) -> list[dict]:
    return [{"text": text} for text in random.Random(seed).sample(pieces, min(count, len(pieces)))]


def _fits(piece: str) -> bool:
    return LENGTHS[0] <= len(piece) <= LENGTHS[1] and not any(word in piece.lower() for word in UNWANTED)


@cache
def _sources() -> tuple[tuple[str, ast.Module], ...]:
    """Source and syntax tree of each module, found without importing it."""
    specs = (importlib.util.find_spec(name) for name in MODULES.split())
    paths = [Path(spec.origin) for spec in specs if spec is not None and spec.origin and spec.origin.endswith(".py")]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return tuple((text, ast.parse(text)) for text in texts)


@cache
def _functions() -> tuple[str, ...]:
    pieces = set()
    for source, tree in _sources():
        lines = source.splitlines()
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                pieces.add(textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])))
    return tuple(sorted(piece for piece in pieces if _fits(piece)))


@cache
def _paragraphs() -> tuple[str, ...]:
    pieces: set[str] = set()
    for _, tree in _sources():
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                pieces.update(_prose(ast.get_docstring(node) or ""))
    for text in topics.topics.values():
        pieces.update(_prose(text))
    return tuple(sorted(piece for piece in pieces if _fits(piece)))


def _prose(text: str) -> Iterator[str]:
    """Paragraphs that read as sentences: no examples, tables or grammar."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        words = " ".join(paragraph.split())
        if (
            words.endswith(".")
            and ">>>" not in words
            and "::=" not in words
            and sum(letter.isalpha() or letter == " " for letter in words) > 0.9 * len(words)
        ):
            yield words
