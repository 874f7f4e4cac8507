"""Which studies there are, and a sentence for those that are not."""

from __future__ import annotations

from collections.abc import Collection

from assets.specs.mistakes import near_matches
from compute.errors import BadInput
from orchestration.results import Results


def study_names(results: Results) -> list[str]:
    """Those that have answered their queries, or tried to."""
    return list(results.views["completions"].paths) if "completions" in results.views else []


def refuse_unknown_study(results: Results, name: str) -> None:
    if name not in (known := study_names(results)):
        raise BadInput(f"there is no study {name} in the lake; {near_matches(name, known, 'studies')}")


def refuse_unknown(value: str, known: Collection[str], what: str) -> None:
    """Of a choice on a page, such as a ranking."""
    if value not in known:
        raise BadInput(f"there is no {what} {value}; {near_matches(value, known, what + 's')}")
