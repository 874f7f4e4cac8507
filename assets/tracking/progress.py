"""Progress of long work: a bar in a terminal, a line every ten seconds elsewhere, in the Dagster UI and in MLflow."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

SECONDS_BETWEEN_REPORTS = 10.0
REPORTS_AT_FULL_PACE = 300
SHORTEST_TOLD = 2.0
"""A rate over fewer seconds is noise: shorter work, and the last moments of longer work, are not measured."""


def seconds_to_next(elapsed: float) -> float:
    """Ten seconds; more in very long work, so that a day of it makes about 1,300 reports and not 8,600."""
    return max(SECONDS_BETWEEN_REPORTS, elapsed / REPORTS_AT_FULL_PACE)


def announce(step: str) -> None:
    """Names the step that begins, for whoever watches a terminal."""
    print(f"▸ {step}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """A line under the step's name."""
    print(f"  {text}", file=sys.stderr, flush=True)


class Progress:
    """Counts `unit`s of work up to `total`; use as a context manager and call `advance`.

    `log` gets a line every ten seconds and one at the end (Dagster's log, which the UI shows live); `measure` gets the
    units done and their rate as metrics (MLflow's), with the units done as the metrics' step.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        *,
        log: Callable[[str], None],
        measure: Callable[[dict[str, float], int], None] | None = None,
    ) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, 0
        self._log, self._measure, self._bar = log, measure, None
        self._started = self._reported_at = time.monotonic()
        self._reported_done = 0
        self.seconds_at_most: float | None = None  # after which the work ends, done or not

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._bar = self._new_bar()
        return self

    def __exit__(self, error_type, *_) -> None:
        if self._bar is not None:
            self._bar.close()
        if error_type is None:
            if time.monotonic() - self._reported_at >= SHORTEST_TOLD and self.done > self._reported_done:
                self._report_rate()
            self._line(f"{counted(self.done, self.unit)} in {self.seconds:.1f} s")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def advance(self, count: int) -> None:
        self.done += count
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.update(count)
        if time.monotonic() - self._reported_at >= seconds_to_next(self.seconds):
            rate = self._report_rate()
            share = 100 * self.done // max(1, self.total)
            self._line(
                f"{self.done:,} of {self.total:,} {self.unit} ({share} %), {_number(rate)} per second{self._left()}"
            )

    def _new_bar(self):
        from tqdm import tqdm

        left = self._left

        class Bar(tqdm):
            """Tells the time left as the lines do; tqdm's own knows no end but the last unit."""

            @property
            def format_dict(self) -> dict:
                return super().format_dict | {"left": left()}

        form = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{left}, {rate_fmt}]"
        unit = f" {self.unit}"
        return Bar(total=self.total, desc=f"  {self.label}", unit=unit, leave=False, ncols=100, bar_format=form)

    def _report_rate(self) -> float:
        """Units per second since the last report."""
        now = time.monotonic()
        rate = (self.done - self._reported_done) / max(now - self._reported_at, 1e-3)
        self._reported_at, self._reported_done = now, self.done
        if self._measure is not None:
            name = f"progress/{self.unit.replace(' ', '_')}"
            self._measure({name: self.done, f"{name}_per_second": rate}, self.done)
        return rate

    def _left(self) -> str:
        """How long the rest takes at the pace so far."""
        if not 0 < self.done < self.total:
            return ""
        return f", about {_duration(self._at_most((self.total - self.done) * self.seconds / self.done))} left"

    def _at_most(self, seconds: float) -> float:
        """What is left by the pace, or by the time that the work may take."""
        return seconds if self.seconds_at_most is None else min(seconds, max(0.0, self.seconds_at_most - self.seconds))

    def _line(self, text: str) -> None:
        self._log(f"{self.label}: {text}")
        if self._bar is None:
            note(f"{self.label}: {text}")


def counted(count: int, units: str) -> str:
    """`2 shards`, `1 query`."""
    one = f"{units[:-3]}y" if units.endswith("ies") else units.removesuffix("s")
    return f"{count:,} {one if count == 1 else units}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
