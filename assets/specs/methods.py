"""The methods by which documents are scored, in the order of their importance."""

from __future__ import annotations

from collections.abc import Iterable

METHODS = ("ekfac", "dot", "bm25")


def in_importance(methods: Iterable[str]) -> list[str]:
    """The main one first; those that are not known come last, by name."""
    return sorted(methods, key=_importance)


def main_method(methods: Iterable[str]) -> str | None:
    """The one that is told of where one is; None of none."""
    return min(methods, key=_importance, default=None)


def _importance(method: str) -> tuple[int, str]:
    return (METHODS.index(method) if method in METHODS else len(METHODS), method)
