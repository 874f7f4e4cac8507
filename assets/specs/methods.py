"""The methods by which documents are scored, and which of several a page or a preview tells of first."""

from __future__ import annotations

from collections.abc import Iterable

from compute.methods import METHODS

BM25 = "bm25"
IMPORTANCE = (*METHODS, BM25)
NORMED_AS_THEY_ARE = frozenset({BM25, *(name for name, method in METHODS.items() if method.unit_norm)})
"""Methods whose scores know no gradient of a document, or have been divided by its norm: they are not divided again."""


def main_method(methods: Iterable[str]) -> str | None:
    """The one that is told of, the others beside it: ekfac, where it is there."""
    return min(methods, key=_importance, default=None)


def in_importance(methods: Iterable[str]) -> list[str]:
    """The main one first, unknown ones last and by the alphabet."""
    return sorted(methods, key=_importance)


def _importance(method: str) -> tuple[int, str]:
    return (IMPORTANCE.index(method) if method in IMPORTANCE else len(IMPORTANCE), method)
