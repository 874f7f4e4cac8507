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
from pathlib import Path

from pydoc_data import topics

MODULES = (
    "argparse ast base64 bisect calendar cmd code codecs collections colorsys configparser contextlib copy csv dataclasses "
    "datetime difflib dis doctest enum filecmp fileinput fnmatch fractions functools getopt gettext glob gzip hashlib heapq "
    "html inspect ipaddress json locale logging mailbox mimetypes numbers opcode optparse pathlib pdb pickle platform pprint "
    "profile queue quopri random reprlib sched selectors shelve shlex shutil smtplib socket statistics string stringprep "
    "subprocess symtable tarfile tempfile textwrap threading timeit tokenize trace traceback types typing unittest urllib uuid "
    "warnings wave weakref webbrowser zipfile"
).split()
LENGTHS = (120, 420)  # characters
UNWANTED = ("copyright", "author", "license", "@")  # pieces about persons and rights, and mail addresses


def code_documents(count: int, seed: int) -> list[dict]:
    """Functions, with their own indentation taken off."""
    return _choose(_functions(), count, f"{seed}:python_code")


def prose_documents(count: int, seed: int) -> list[dict]:
    """Paragraphs of docstrings and of the language reference."""
    return _choose(_paragraphs(), count, f"{seed}:python_prose")


def _choose(pieces: Iterator[str], count: int, seed: str) -> list[dict]:
    wanted = sorted({piece for piece in pieces if _fits(piece)})
    return [{"text": text} for text in random.Random(seed).sample(wanted, min(count, len(wanted)))]


def _fits(piece: str) -> bool:
    return LENGTHS[0] <= len(piece) <= LENGTHS[1] and not any(word in piece.lower() for word in UNWANTED)


def _sources() -> Iterator[str]:
    for name in MODULES:
        spec = importlib.util.find_spec(name)  # finds the file without importing the module
        if spec is not None and spec.origin and spec.origin.endswith(".py"):
            yield Path(spec.origin).read_text(encoding="utf-8")


def _functions() -> Iterator[str]:
    for source in _sources():
        lines = source.splitlines()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                yield textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))


def _paragraphs() -> Iterator[str]:
    for source in _sources():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                yield from _prose(ast.get_docstring(node) or "")
    for text in topics.topics.values():
        yield from _prose(text)


def _prose(text: str) -> Iterator[str]:
    """Paragraphs that read as sentences: no examples, tables or grammar."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        words = " ".join(paragraph.split())
        if words.endswith(".") and ">>>" not in words and "::=" not in words and sum(letter.isalpha() or letter == " " for letter in words) > 0.9 * len(words):
            yield words
