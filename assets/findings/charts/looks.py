"""How groups of queries and methods are told apart in every figure: kinds by color, their controls by paler dashes, and
methods by name and place, the main one first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from assets.figures.drawing import BLUE, GREEN, INK, ORANGE, PURPLE, QUIET, RED
from assets.specs.methods import in_importance

CONTROL = "control"
ANALYSES = ("correlation", "magnitude", "power_law", "answers", "kinds", "verdicts", "sources")
KINDS = {"factual": BLUE, "reasoning": ORANGE}
MORE_COLORS = (GREEN, PURPLE, RED, INK)
METHOD_NAMES = {
    "ekfac": "EK-FAC",
    "dot": "gradient dot product",
    "kfac": "K-FAC",
    "cosine": "gradient cosine",
    "trackstar": "TrackStar-style",
    "astra": "ASTRA-style",
    "bm25": "BM25",
}
COLORS_OF_METHODS = (*MORE_COLORS, QUIET)
FEW = 3
"""Methods that dashes tell apart."""
METHOD_DASHES = ((1, 0), (6, 3), (2, 3), (8, 3, 2, 3), (12, 3), (12, 3, 2, 3, 2, 3), (4, 2, 1, 2))


@dataclass(frozen=True)
class Look:
    """How one line, or the marks of one group, are drawn."""

    color: str
    dash: tuple[int, ...] = (1, 0)
    width: float = 1.8
    is_quiet: bool = False


def quiet(color: str) -> Look:
    """Of controls: paler than the kind's, in dashes."""
    return Look(mixed(color, 0.4), (4, 3), 1.2, True)


def mixed(color: str, white: float) -> str:
    """The color with that share of white."""
    parts = [int(color[at : at + 2], 16) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)


def is_control(group: str) -> bool:
    return group == CONTROL or group.endswith(f" {CONTROL}")


def kind_of(group: str) -> str:
    """The kind that a group is, or is the control of."""
    return group.removesuffix(f" {CONTROL}")


def ordered_groups(groups: Iterable[str]) -> list[str]:
    """Factual and reasoning first, other kinds by the alphabet, then their controls in the same order."""
    first = list(KINDS)
    return sorted(
        set(groups),
        key=lambda group: (
            is_control(group),
            first.index(kind_of(group)) if kind_of(group) in first else len(first),
            group,
        ),
    )


def looks_of(groups: Iterable[str]) -> dict[str, Look]:
    """A look for each group, in their order."""
    ordered = ordered_groups(groups)
    others = [kind for kind in dict.fromkeys(map(kind_of, ordered)) if kind not in KINDS]
    colors = KINDS | {kind: MORE_COLORS[number % len(MORE_COLORS)] for number, kind in enumerate(others)}
    return {
        group: quiet(colors[kind_of(group)]) if is_control(group) else Look(colors[kind_of(group)]) for group in ordered
    }


def ordered_methods(frame: pl.DataFrame) -> list[str]:
    """The main method first: EK-FAC, where it is there."""
    return in_importance(frame["method"].drop_nulls().unique().to_list())


def method_name(method: str) -> str:
    return METHOD_NAMES.get(method, method)


def method_looks(methods: Sequence[str], color: str) -> dict[str, Look]:
    """The main method in the color, the others in grey, told apart by their dashes, and by colors where there are more
    of them than dashes can tell."""
    few = len(methods) <= FEW
    return {
        method: Look(color)
        if not number
        else Look(
            QUIET if few else COLORS_OF_METHODS[(number - 1) % len(COLORS_OF_METHODS)],
            METHOD_DASHES[number % len(METHOD_DASHES)],
            1.2,
            True,
        )
        for number, method in enumerate(methods)
    }
