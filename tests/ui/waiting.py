"""Waiting for something to become true outside the browser."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(holds: Callable[[], bool], what: str, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"after {seconds:.0f} seconds it does not hold that {what}"
        time.sleep(0.5)
