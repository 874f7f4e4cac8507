"""Markdown that several pages of the reference are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def grid(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; bars inside of cells are escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines) + "\n"


def sentence(words: str) -> str:
    """The text with a capital at its beginning and a full stop at its end, as one line; `<` is no tag in it."""
    words = text(" ".join(words.split()))
    first = words[:1].upper() if words[:1].isascii() else words[:1]  # λ and Λ are two things
    return f"{first}{words[1:]}{'' if words.endswith(('.', '?', '…')) else '.'}" if words else ""


def text(words: str) -> str:
    """The words as they are, with `<` as no tag."""
    return words.replace("<", "&lt;")


def code(value: object) -> str:
    return f"`{value}`"
