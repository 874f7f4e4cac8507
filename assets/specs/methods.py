"""The methods by which documents are scored, in the order of their importance, and what `normed` means of each."""

from __future__ import annotations

from collections.abc import Iterable

from compute.methods import METHODS as OF_GRADIENTS

BM25 = "bm25"
METHODS = (*OF_GRADIENTS, BM25)
NORMED_AS_THEY_ARE = frozenset({BM25, *(name for name, method in OF_GRADIENTS.items() if method.unit_norm)})
"""Methods whose scores know no gradient of a document, or have been divided by its norm: they are not divided again."""


def in_importance(methods: Iterable[str]) -> list[str]:
    """The main one first; those that are not known come last, by name."""
    return sorted(methods, key=_importance)


def main_method(methods: Iterable[str]) -> str | None:
    """The one that is told of where one is, ekfac where it is there; None of none."""
    return min(methods, key=_importance, default=None)


def _importance(method: str) -> tuple[int, str]:
    return (METHODS.index(method) if method in METHODS else len(METHODS), method)
