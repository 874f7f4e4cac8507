"""Failures of a step over several shards: one that fails does not keep the others from being done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from assets.lake.damage import first_line
from assets.step.checks import CheckFailedError
from assets.tracking.progress import note
from compute.errors import BadInput

NAMED = 10


class ShardFailures:
    """Of a step over this number of `shards`: told one by one as they are met, in Dagster's `log` and, where others
    follow, in the terminal; raised together at the end."""

    def __init__(self, shards: int, log: Callable[[str], None]) -> None:
        self._shards, self._log = shards, log
        self._found: dict[str, Exception] = {}

    @contextmanager
    def of(self, shard: str) -> Iterator[None]:
        """Around the work on a shard: an error is noted, and what follows is done all the same. An interrupt passes."""
        try:
            yield
        except Exception as error:
            self._found[shard] = error
            self._log(f"shard {shard} failed: {error}")
            if self._shards > 1:
                note(f"shard {shard} failed: {first_line(error)}")

    def raise_any(self) -> None:
        """Raises the failure, if there was one: a user's mistake only where all failures are."""
        if len(self._found) == 1:
            raise next(iter(self._found.values()))
        if self._found:
            failures = list(self._found.values())
            crashed = [error for error in failures if not isinstance(error, (BadInput, CheckFailedError))]
            first = (crashed or failures)[0]
            names = ", ".join(list(self._found)[:NAMED]) + (", …" if len(self._found) > NAMED else "")
            sentence = f"{len(self._found)} of {self._shards} shards failed ({names}); the first: {first}"
            raise (RuntimeError if crashed else BadInput)(sentence) from first
