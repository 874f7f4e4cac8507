"""Addresses of the explorer's views: a view's whole state stands in its address, so that every view has a permalink."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

DEFAULTS = {"ranking": "normed", "end": "top", "order": "score"}


def address(page: str, state: Mapping[str, Any] | None = None, **changes: Any) -> str:
    """`/page?…` for `state` with `changes`; None leaves a part out, and so does what is the default anyway."""
    whole = {**(state or {}), **changes}
    kept = {name: value for name, value in whole.items() if value not in (None, "") and DEFAULTS.get(name) != value}
    return f"/{page}?{urlencode(kept)}" if kept else f"/{page}"


@dataclass(frozen=True)
class Option:
    """One of the things that can be chosen on a page, and the address that shows it."""

    told: str
    address: str
    is_chosen: bool
