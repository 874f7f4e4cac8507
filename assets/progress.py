"""Progress of long work: a bar in a terminal, a line every few seconds elsewhere and in the Dagster UI."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 10.0


def announce(step: str) -> None:
    """Names the step that begins, for whoever watches a terminal."""
    print(f"▸ {step}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """A line under the step's name."""
    print(f"  {text}", file=sys.stderr, flush=True)


class Progress:
    """Counts `unit`s of work up to `total`; use as a context manager and call `advance`.

    `log` gets a line every ten seconds and one at the end (Dagster's log, which the UI shows live).
    """

    def __init__(self, label: str, total: int, unit: str, *, log: Callable[[str], None]) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, 0
        self._log, self._bar = log, None
        self._started = self._last_line = time.monotonic()

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self.total, desc=f"  {self.label}", unit=f" {self.unit}", leave=False, ncols=100)
        return self

    def __exit__(self, error_type, *_) -> None:
        if self._bar is not None:
            self._bar.close()
        if error_type is None:
            self._line(f"{self.done:,} {self.unit} in {self.seconds:.1f} s")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def advance(self, count: int) -> None:
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self._line(f"{self.done:,} of {self.total:,} {self.unit} ({100 * self.done // max(1, self.total)} %)")

    def _line(self, text: str) -> None:
        self._log(f"{self.label}: {text}")
        if self._bar is None:
            note(f"{self.label}: {text}")
